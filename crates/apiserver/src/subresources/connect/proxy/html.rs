//! Rewrites links in proxied pages, so that an absolute path leads back through the proxy.
//! A small scanner of tags, not a parser: what it does not understand it leaves alone.

use bytes::Bytes;
use futures::StreamExt;

use crate::http::body::Body;
use crate::http::body::BoxError;

/// A tag longer than this is passed on as it is.
const MAX_TAG_BYTES: usize = 64 * 1024;

/// Attributes that hold a link, in any tag.
const LINKS: [&str; 15] = [
    "href",
    "src",
    "action",
    "formaction",
    "cite",
    "background",
    "codebase",
    "data",
    "longdesc",
    "manifest",
    "poster",
    "profile",
    "usemap",
    "icon",
    "classid",
];

/// A page with its links turned.
pub(super) fn rewritten(page: Body, prefix: String) -> Body {
    let mut rewriter = Rewriter {
        prefix,
        rest: Vec::new(),
    };
    let chunks = page
        .into_stream()
        .map(Some)
        .chain(futures::stream::iter([None]));
    Body::stream(chunks.filter_map(move |chunk| {
        let out: Option<Result<Bytes, BoxError>> = match chunk {
            Some(Ok(bytes)) => Some(Ok(rewriter.feed(&bytes).into())),
            Some(Err(e)) => Some(Err(e)),
            None => Some(Ok(std::mem::take(&mut rewriter.rest).into())),
        };
        let out = out.filter(|o| !matches!(o, Ok(b) if b.is_empty()));
        async move { out }
    }))
}

struct Rewriter {
    prefix: String,
    /// An unfinished tag.
    rest: Vec<u8>,
}

impl Rewriter {
    fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.rest.extend_from_slice(bytes);
        let all = std::mem::take(&mut self.rest);
        let mut left = all.as_slice();
        let mut out = Vec::with_capacity(all.len() + 256);
        while let Some(start) = memchr::memchr(b'<', left) {
            let (text, tag) = left.split_at(start);
            out.extend_from_slice(text);
            let Some(end) = end_of_tag(tag) else {
                if tag.len() > MAX_TAG_BYTES {
                    out.extend_from_slice(tag);
                } else {
                    self.rest = tag.to_vec();
                }
                return out;
            };
            let (tag, rest) = tag.split_at(end);
            self.tag(tag, &mut out);
            left = rest;
        }
        out.extend_from_slice(left);
        out
    }

    fn tag(&self, tag: &[u8], out: &mut Vec<u8>) {
        // Comments and declarations hold no links of the page.
        let text = match std::str::from_utf8(tag) {
            Ok(text) if !text.starts_with("<!") => text,
            _ => return out.extend_from_slice(tag),
        };
        let mut left = text;
        while let Some(found) = attribute(left) {
            let turned = LINKS
                .iter()
                .any(|l| found.name.eq_ignore_ascii_case(l))
                .then(|| turned(found.value, &self.prefix, None))
                .flatten();
            out.extend_from_slice(found.before.as_bytes());
            out.extend_from_slice(turned.as_deref().unwrap_or(found.value).as_bytes());
            left = found.rest;
        }
        out.extend_from_slice(left.as_bytes());
    }
}

/// Where a tag (or a comment) ends; quotes may hold a `>`.
fn end_of_tag(tag: &[u8]) -> Option<usize> {
    if tag.starts_with(b"<!--") {
        return Some(memchr::memmem::find(tag, b"-->")? + 3);
    }
    let mut quote = None;
    for (at, b) in tag.iter().enumerate() {
        match (quote, b) {
            (None, b'>') => return Some(at + 1),
            (None, b'"' | b'\'') => quote = Some(b),
            (Some(q), b) if q == b => quote = None,
            _ => {}
        }
    }
    None
}

struct Attribute<'a> {
    /// Everything up to the value, the quote included.
    before: &'a str,
    name: &'a str,
    value: &'a str,
    rest: &'a str,
}

/// The next quoted attribute.
fn attribute(tag: &str) -> Option<Attribute<'_>> {
    let mut from = 0;
    loop {
        let equals = from + tag.get(from..)?.find('=')?;
        let head = tag.get(..equals)?.trim_end();
        let begin = head.rfind(|c: char| c.is_whitespace() || "<\"'/".contains(c));
        let name = head.get(begin.map_or(0, |b| b + 1)..)?;
        let value = tag.get(equals + 1..)?;
        let quoted = value.trim_start();
        let Some(quote) = quoted.chars().next().filter(|c| *c == '"' || *c == '\'') else {
            from = equals + 1;
            continue;
        };
        let start = tag.len() - quoted.len() + 1;
        let length = tag.get(start..)?.find(quote)?;
        return Some(Attribute {
            before: tag.get(..start)?,
            name,
            value: tag.get(start..start + length)?,
            rest: tag.get(start + length..)?,
        });
    }
}

/// A link as it must be behind the prefix; none when it stays as it is: relative links, links
/// elsewhere, and such as lead through the proxy already. `host`: also full links to it.
pub(super) fn turned(link: &str, prefix: &str, host: Option<&str>) -> Option<String> {
    let path = if link.starts_with("//") || !link.starts_with('/') {
        let rest = link
            .strip_prefix("//")
            .or_else(|| Some(link.split_once("://")?.1))?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let uri: http::uri::Authority = authority.parse().ok()?;
        if Some(uri.host().trim_matches(['[', ']'])) != host {
            return None;
        }
        path
    } else {
        link
    };
    let below = path.strip_prefix(prefix);
    if below.is_some_and(|b| b.is_empty() || b.starts_with('/')) {
        return None;
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    Some(format!("{prefix}{slash}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(chunks: &[&str]) -> String {
        let mut rewriter = Rewriter {
            prefix: "/p/proxy".into(),
            rest: Vec::new(),
        };
        let mut out = Vec::new();
        for chunk in chunks {
            out.extend(rewriter.feed(chunk.as_bytes()));
        }
        out.extend(rewriter.rest);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn absolute_paths_are_led_through_the_proxy() {
        let html =
            "<p>a < b</p><a class=x href=\"/rewriteme\">test</a> <img src='/i.png' alt=\"a=b\">";
        let want = "<p>a < b</p><a class=x href=\"/p/proxy/rewriteme\">test</a> <img src='/p/proxy/i.png' alt=\"a=b\">";
        assert_eq!(page(&[html]), want);
        for at in 0..html.len() {
            let (a, b) = html.split_at(at);
            assert_eq!(page(&[a, b]), want, "parted at {at}");
        }
    }

    #[test]
    fn other_links_stay() {
        let html = "<a href=\"x\"><a href=\"http://else/where\"><a href=\"/p/proxy/y\"><a title=\"/z\"><!-- <a href=\"/c\"> --><a href=\"//h/x\"";
        assert_eq!(page(&[html]), html);
    }

    #[test]
    fn redirects_to_the_backend_are_turned() {
        let turn = |link| turned(link, "/p", Some("192.0.2.1"));
        assert_eq!(
            turn("http://192.0.2.1:8080/login?a=b").as_deref(),
            Some("/p/login?a=b")
        );
        assert_eq!(turn("/login").as_deref(), Some("/p/login"));
        assert_eq!(turn("https://192.0.2.1").as_deref(), Some("/p/"));
        assert_eq!(turn("https://other/login"), None);
        assert_eq!(turn("login"), None);
        assert_eq!(turn("mailto:a@b"), None);
    }
}
