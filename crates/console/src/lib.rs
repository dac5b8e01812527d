//! The console's page as it is built from `web`: few files, compressed, in the binary. It knows
//! what each is and how a browser may keep it, and nothing of servers or of the API.
#![forbid(unsafe_code)]

use std::io::Read;

/// Names and compressed bytes of all files; made by `cargo xtask console`.
static FILES: &[(&str, &[u8])] = include!("../dist/files.in");

/// The page itself, which names all other files by their hashes.
const INDEX: &str = "index.html";

/// What the page may do: run its own scripts, and speak with the server that it came from. A
/// script that got in by an object's text would neither run nor reach anybody.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; \
    style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

/// One file of the page.
#[derive(Clone, Copy)]
pub struct File {
    name: &'static str,
    /// Its bytes, compressed with gzip.
    pub gzip: &'static [u8],
}

/// The file at a path below `/console/`; the page itself for an empty one.
pub fn find(path: &str) -> Option<File> {
    let wanted = if path.is_empty() { INDEX } else { path };
    let (name, gzip) = FILES.iter().find(|(name, _)| *name == wanted)?;
    Some(File { name, gzip })
}

impl File {
    pub fn content_type(&self) -> &'static str {
        match self.name.rsplit_once('.').map(|(_, end)| end) {
            Some("html") => "text/html; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "application/octet-stream",
        }
    }

    /// A file with its hash in its name never changes; the page names new ones after an update.
    pub fn is_fixed(&self) -> bool {
        self.name != INDEX
    }

    /// What distinguishes this content from another: its checksum and its length, with which
    /// gzip ends.
    pub fn etag(&self) -> String {
        let end = self.gzip.len().saturating_sub(8);
        let hex = self.gzip[end..].iter().map(|b| format!("{b:02x}"));
        format!("\"{}\"", hex.collect::<String>())
    }

    /// Its bytes as they are, for who does not read gzip.
    pub fn plain(&self) -> std::io::Result<Vec<u8>> {
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(self.gzip).read_to_end(&mut out)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that the whole page may have, compressed.
    const MOST_BYTES: usize = 300 << 10;

    #[test]
    fn the_page_names_files_that_exist_and_nothing_elsewhere() {
        let page = find("").unwrap();
        let text = String::from_utf8(page.plain().unwrap()).unwrap();
        let named = text.split('"').filter(|word| word.contains("app-"));
        let named: Vec<&str> = named.collect();
        assert_eq!(named.len(), 2, "a script and a style sheet: {named:?}");
        assert!(named.iter().all(|name| find(name).is_some()), "{named:?}");
        assert!(!text.contains("http"), "{text}");
        assert!(!page.is_fixed());
        assert!(find(named[0]).unwrap().is_fixed());
    }

    #[test]
    fn the_page_stays_small() {
        let size: usize = FILES.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(size <= MOST_BYTES, "{size} bytes");
    }

    #[test]
    fn every_file_is_whole_and_has_a_type_and_a_tag_of_its_own() {
        let mut tags = Vec::new();
        for (name, _) in FILES {
            let file = find(name).unwrap();
            assert!(!file.plain().unwrap().is_empty(), "{name}");
            assert_ne!(file.content_type(), "application/octet-stream", "{name}");
            tags.push(file.etag());
        }
        tags.sort();
        tags.dedup();
        assert_eq!(tags.len(), FILES.len());
        assert!(find("../Cargo.toml").is_none());
    }
}
