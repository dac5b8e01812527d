//! Which node ports are taken: one bit of each, as upstream stores them. Pure. What is stored and does
//! not say so is an error and never "none": else a port would be given twice.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clock::Random;
use rand::RngExt;
use serde_json::{Value, json};

/// How often a random port is tried before the range is searched.
const GUESSES: usize = 32;

/// The ports of a range that are taken.
#[derive(Debug, PartialEq, Eq)]
pub struct PortMap {
    range: RangeInclusive<u16>,
    taken: BTreeSet<u16>,
}

/// Why what is stored does not say which ports of a range are taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("it is of the ports {0:?}, and not of {1}")]
    OtherRange(String, String),
}

impl PortMap {
    /// With these, as far as they are of the range.
    pub fn of(range: RangeInclusive<u16>, taken: impl IntoIterator<Item = u16>) -> Self {
        let taken = taken.into_iter().filter(|p| range.contains(p)).collect();
        Self { range, taken }
    }

    /// What is stored; nothing is before the first port is given.
    ///
    /// # Errors
    /// It does not say which ports of the range are taken.
    pub fn read(range: RangeInclusive<u16>, stored: Option<&[u8]>) -> Result<Self, Unusable> {
        let mut map = Self::of(range, []);
        let Some(stored) = stored else {
            return Ok(map);
        };
        let damaged = Unusable::Damaged;
        let value: Value = serde_json::from_slice(stored).map_err(|e| damaged(e.to_string()))?;
        let (told, own) = (value["range"].as_str().unwrap_or_default(), map.words());
        if told != own {
            return Err(Unusable::OtherRange(told.to_owned(), own));
        }
        let data = match &value["data"] {
            Value::Null => "",
            Value::String(text) => text.as_str(),
            _ => return Err(damaged("its bits are no text".to_owned())),
        };
        let bytes = STANDARD.decode(data).map_err(|e| damaged(e.to_string()))?;
        let bits = bytes.iter().rev().enumerate().flat_map(|(i, byte)| {
            (0..8usize)
                .filter(move |bit| byte & (1 << bit) != 0)
                .map(move |bit| i * 8 + bit)
        });
        for bit in bits {
            let port = u16::try_from(bit).ok();
            let port = port.and_then(|n| map.range.start().checked_add(n));
            let port = port.filter(|p| map.range.contains(p));
            let beyond = || damaged(format!("port {bit} of {own} is taken"));
            map.taken.insert(port.ok_or_else(beyond)?);
        }
        Ok(map)
    }

    /// A big-endian number, as upstream's big.Int writes its bitmap.
    pub fn write(&self) -> Value {
        let first = *self.range.start();
        let mut bytes = vec![0u8; usize::from(self.range.end().saturating_sub(first)) / 8 + 1];
        let len = bytes.len();
        for p in &self.taken {
            let n = usize::from(p.saturating_sub(first));
            if let Some(byte) = len.checked_sub(1 + n / 8).and_then(|i| bytes.get_mut(i)) {
                *byte |= 1 << (n % 8);
            }
        }
        json!({
            "kind": "RangeAllocation",
            "apiVersion": "v1",
            "metadata": { "name": "servicenodeports" },
            "range": self.words(),
            "data": STANDARD.encode(&bytes),
        })
    }

    fn words(&self) -> String {
        format!("{}-{}", self.range.start(), self.range.end())
    }

    /// Takes a port.
    ///
    /// # Errors
    /// Why it cannot be had, in upstream's words.
    pub fn take(&mut self, port: u16) -> Result<(), String> {
        if !self.range.contains(&port) {
            let range = self.words();
            return Err(format!(
                "provided port is not in the valid range. The range of valid ports is {range}"
            ));
        }
        if self.taken.insert(port) {
            Ok(())
        } else {
            Err("provided port is already allocated".into())
        }
    }

    /// Takes any port; none if all are taken.
    pub fn take_any(&mut self, mut random: Random) -> Option<u16> {
        for _ in 0..GUESSES {
            let port = random.random_range(self.range.clone());
            if self.taken.insert(port) {
                return Some(port);
            }
        }
        let port = self.range.clone().find(|p| !self.taken.contains(p))?;
        self.taken.insert(port);
        Some(port)
    }

    /// Gives a port back.
    pub fn free(&mut self, port: u16) {
        self.taken.remove(&port);
    }

    /// How many ports are taken, and how many are not.
    pub fn count(&self) -> (usize, usize) {
        let taken = self.taken.len();
        (taken, self.range.len().saturating_sub(taken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: RangeInclusive<u16> = 30_000..=32_767;

    #[test]
    fn ports_survive_being_written_and_read() {
        let mut map = PortMap::read(RANGE, None).expect("nothing is taken");
        for p in [30_000, 30_007, 30_008, 32_767] {
            map.take(p).expect("free");
        }
        assert!(map.take(30_007).is_err() && map.take(29_999).is_err());
        assert_eq!(map.count(), (4, 2_764));
        let text = map.write().to_string();
        let again = PortMap::read(RANGE, Some(text.as_bytes()));
        assert_eq!(again, Ok(map));
    }

    #[test]
    fn what_does_not_say_which_are_taken_is_never_none() {
        let stored = |range: &str, data: Value| {
            let text = json!({ "range": range, "data": data }).to_string();
            PortMap::read(RANGE, Some(text.as_bytes()))
        };
        let none = PortMap::of(RANGE, []);
        assert_eq!(stored("30000-32767", Value::Null), Ok(none));
        for damaged in [
            PortMap::read(RANGE, Some(b"{\"range\":")),
            stored("30000-32767", json!("?")),
            stored("30000-32767", json!(7)),
            // One bit more than there are ports.
            stored(
                "30000-32767",
                json!(STANDARD.encode([[1u8].as_slice(), &[0; 346]].concat())),
            ),
        ] {
            assert!(matches!(damaged, Err(Unusable::Damaged(_))), "{damaged:?}");
        }
        for other in ["30000-31000", "", "damaged"] {
            let read = stored(other, json!("AQ=="));
            assert!(matches!(read, Err(Unusable::OtherRange(..))), "{read:?}");
        }
    }

    #[test]
    fn what_is_not_of_the_range_is_left_out() {
        let map = PortMap::of(RANGE, [80, 30_001, 40_000]);
        assert_eq!(map, PortMap::of(RANGE, [30_001]));
    }
}
