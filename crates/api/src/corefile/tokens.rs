//! A Corefile's words, lines and braces: server blocks with directives, whatever they mean.

use super::CorefileError;

/// A directive: its words, and the lines in braces behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// Where it begins; the first line is 1.
    pub line: usize,
    /// Its name and its arguments; never empty.
    pub words: Vec<String>,
    /// What stands in its braces.
    pub inner: Vec<Directive>,
}

impl Directive {
    /// Its name.
    pub fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// What stands behind its name on its line.
    pub fn arguments(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }
}

/// A server block: its words are the zones.
pub type Server = Directive;

/// What stands beside server blocks without being one.
pub const IMPORT: &str = "import";

/// Braces may lie in one another so deep: a server, a plugin, its properties.
const DEPTH: usize = 4;

/// Reads server blocks.
pub fn servers(text: &str) -> Result<Vec<Server>, CorefileError> {
    let mut lines = Lines::of(text)?;
    let servers = lines.block(0)?;
    for server in &servers {
        if !server.braces && server.directive.name() != IMPORT {
            let what = "a server block has no braces".to_owned();
            return Err(CorefileError {
                line: server.directive.line,
                what,
            });
        }
    }
    Ok(servers.into_iter().map(|s| s.directive).collect())
}

/// Reads directives that stand in no server block.
pub fn directives(text: &str) -> Result<Vec<Directive>, CorefileError> {
    let mut lines = Lines::of(text)?;
    let all = lines.block(0)?;
    Ok(all.into_iter().map(|d| d.directive).collect())
}

struct Read {
    directive: Directive,
    braces: bool,
}

/// The lines that have words, in order.
struct Lines {
    all: Vec<(usize, Vec<String>)>,
    next: usize,
}

impl Lines {
    fn of(text: &str) -> Result<Self, CorefileError> {
        let mut all: Vec<(usize, Vec<String>)> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let words = words(line, number)?;
            match all.last_mut() {
                _ if words.is_empty() => {}
                // Zones may go on in the next line behind a comma.
                Some((_, before)) if before.last().is_some_and(|w| w.ends_with(',')) => {
                    before.extend(words);
                }
                _ => all.push((number, words)),
            }
        }
        Ok(Self { all, next: 0 })
    }

    /// The directives up to the brace that ends them, or to the end of the file at depth zero.
    fn block(&mut self, depth: usize) -> Result<Vec<Read>, CorefileError> {
        let mut found = Vec::new();
        while let Some((line, mut words)) = self.all.get(self.next).cloned() {
            self.next += 1;
            let error = |what: &str| CorefileError {
                line,
                what: what.to_owned(),
            };
            if words == ["}"] {
                return match depth {
                    0 => Err(error("a closing brace without an opening one")),
                    _ => Ok(found),
                };
            }
            if words.iter().any(|word| word == "}") {
                return Err(error("a closing brace must stand on a line of its own"));
            }
            let braces = words.last().is_some_and(|word| word == "{");
            let mut inner = Vec::new();
            if braces {
                words.pop();
                if depth >= DEPTH {
                    return Err(error("too many braces in one another"));
                }
                let block = self.block(depth + 1)?;
                inner.extend(block.into_iter().map(|read| read.directive));
            }
            if words.is_empty() || words.iter().any(|word| word == "{") {
                return Err(error(
                    "an opening brace must stand behind a name, at the line's end",
                ));
            }
            let directive = Directive { line, words, inner };
            found.push(Read { directive, braces });
        }
        match depth {
            0 => Ok(found),
            _ => Err(CorefileError {
                line: self.all.last().map_or(1, |(line, _)| *line),
                what: "a closing brace is missing".into(),
            }),
        }
    }
}

/// The words of a line, without a comment; quotes hold words with spaces together.
fn words(line: &str, number: usize) -> Result<Vec<String>, CorefileError> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() && !rest.starts_with('#') {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut word = String::new();
            let mut chars = quoted.char_indices();
            let end = loop {
                match chars.next() {
                    Some((at, '"')) => break at + 1,
                    Some((_, '\\')) => match chars.next() {
                        Some((_, '"')) => word.push('"'),
                        Some((_, other)) => word.extend(['\\', other]),
                        None => word.push('\\'),
                    },
                    Some((_, other)) => word.push(other),
                    None => {
                        return Err(CorefileError {
                            line: number,
                            what: "a quotation mark is not closed on its line".into(),
                        });
                    }
                }
            };
            words.push(word);
            rest = quoted.get(end..).unwrap_or_default().trim_start();
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            let (word, more) = rest.split_at(end);
            words.push(word.to_owned());
            rest = more.trim_start();
        }
    }
    Ok(words)
}
