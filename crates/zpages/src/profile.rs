//! The file format of pprof (`profile.proto`): samples with stacks of functions, names stored once.

use std::collections::HashMap;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    text: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// One function on a stack; several share an address where one was inlined in the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StackFunction {
    pub name: String,
    pub file: String,
    pub line: i64,
}

/// One address on a stack.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    pub address: u64,
    /// The innermost first.
    pub places: Vec<StackFunction>,
}

/// A profile that is being made.
pub struct Writer {
    profile: Profile,
    texts: HashMap<String, i64>,
    functions: HashMap<(String, String), u64>,
    locations: HashMap<Frame, u64>,
}

impl Writer {
    /// A profile whose samples have these values, each a name and a unit; `period`: what lies between
    /// two samples, in the last one's unit.
    pub fn new(values: &[(&str, &str)], period: i64) -> Self {
        let mut writer = Self {
            profile: Profile::default(),
            texts: HashMap::new(),
            functions: HashMap::new(),
            locations: HashMap::new(),
        };
        // The format wants the empty text first.
        writer.text("");
        let types = values
            .iter()
            .map(|(kind, unit)| ValueType {
                kind: writer.text(kind),
                unit: writer.text(unit),
            })
            .collect::<Vec<_>>();
        writer.profile.period_type = types.last().copied();
        writer.profile.period = period;
        writer.profile.sample_type = types;
        writer
    }

    /// When it was begun and how long it took, nanoseconds.
    pub fn took(&mut self, began: i64, nanos: i64) {
        self.profile.time_nanos = began;
        self.profile.duration_nanos = nanos;
    }

    /// Adds a stack, the innermost frame first.
    pub fn add(&mut self, stack: &[Frame], values: Vec<i64>, thread: &str) {
        let location_id = stack.iter().map(|f| self.location(f)).collect();
        let label = match thread {
            "" => Vec::new(),
            name => vec![Label {
                key: self.text("thread"),
                text: self.text(name),
            }],
        };
        self.profile.sample.push(Sample {
            location_id,
            value: values,
            label,
        });
    }

    /// The file.
    pub fn gzipped(self) -> Vec<u8> {
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        // Writing to memory cannot fail.
        let _ = out.write_all(&self.profile.encode_to_vec());
        out.finish().unwrap_or_default()
    }

    fn text(&mut self, text: &str) -> i64 {
        if let Some(known) = self.texts.get(text) {
            return *known;
        }
        let at = i64::try_from(self.profile.string_table.len()).unwrap_or(0);
        self.profile.string_table.push(text.to_owned());
        self.texts.insert(text.to_owned(), at);
        at
    }

    fn location(&mut self, frame: &Frame) -> u64 {
        if let Some(known) = self.locations.get(frame) {
            return *known;
        }
        let line = frame
            .places
            .iter()
            .map(|p| Line {
                function_id: self.function(p),
                line: p.line,
            })
            .collect();
        // Zero means none.
        let id = self.profile.location.len() as u64 + 1;
        self.profile.location.push(Location {
            id,
            address: frame.address,
            line,
        });
        self.locations.insert(frame.clone(), id);
        id
    }

    fn function(&mut self, place: &StackFunction) -> u64 {
        let key = (place.name.clone(), place.file.clone());
        if let Some(known) = self.functions.get(&key) {
            return *known;
        }
        let id = self.profile.function.len() as u64 + 1;
        let (name, filename) = (self.text(&place.name), self.text(&place.file));
        self.profile.function.push(Function {
            id,
            name,
            system_name: name,
            filename,
        });
        self.functions.insert(key, id);
        id
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Read;

    use super::*;

    /// The names on a stack, and the values of its sample.
    pub(crate) type Sampled = (Vec<String>, Vec<i64>);

    /// Samples of a file, and the names of their values.
    pub(crate) fn read(file: &[u8]) -> (Vec<Sampled>, Vec<String>) {
        let mut plain = Vec::new();
        let mut zipped = flate2::read::GzDecoder::new(file);
        zipped.read_to_end(&mut plain).expect("gzip");
        let p = Profile::decode(&*plain).expect("a profile");
        let text = |at: i64| p.string_table[usize::try_from(at).expect("an index")].clone();
        let names = |id: &u64| {
            let location = p.location.iter().find(|l| l.id == *id).expect("a location");
            let function = |l: &Line| {
                let found = p.function.iter().find(|f| f.id == l.function_id);
                text(found.expect("a function").name)
            };
            location.line.iter().map(function).collect::<Vec<_>>()
        };
        let samples = p.sample.iter();
        let samples = samples.map(|s| {
            let stack = s.location_id.iter().flat_map(names).collect();
            (stack, s.value.clone())
        });
        let kinds = p.sample_type.iter().map(|t| text(t.kind)).collect();
        (samples.collect(), kinds)
    }

    #[test]
    fn what_is_written_can_be_read_and_nothing_stands_twice() {
        let place = |name: &str| StackFunction {
            name: name.into(),
            file: "f.rs".into(),
            line: 7,
        };
        let frame = |address, names: &[&str]| Frame {
            address,
            places: names.iter().copied().map(place).collect(),
        };
        let mut w = Writer::new(&[("samples", "count"), ("cpu", "nanoseconds")], 10);
        let main = frame(1, &["main"]);
        w.add(
            &[frame(2, &["inlined", "leaf"]), main.clone()],
            vec![3, 30],
            "worker",
        );
        w.add(&[frame(2, &["inlined", "leaf"]), main], vec![1, 10], "");
        assert_eq!((w.profile.location.len(), w.profile.function.len()), (2, 3));
        let (samples, kinds) = read(&w.gzipped());
        assert_eq!(kinds, ["samples", "cpu"]);
        let stack: Vec<String> = ["inlined", "leaf", "main"].map(String::from).into();
        assert_eq!(
            samples,
            [(stack.clone(), vec![3, 30]), (stack, vec![1, 10])]
        );
    }
}
