//! Of which images a pod must prove that it may use them, as the configuration says. Pure.

/// Which images are asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verification {
    /// None: who may start pods on the node may use all that it has.
    Never,
    /// Those that a kubelet pulled; what came otherwise is for all.
    #[default]
    NotPreloaded,
    /// All but those that a list names.
    NotListed(ImageList),
    /// All.
    Always,
}

/// Names of images without tag and digest, and beginnings of such names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageList {
    names: Vec<String>,
    beginnings: Vec<String>,
}

impl ImageList {
    /// Reads patterns: a name, or a beginning with `/*` after it.
    ///
    /// # Errors
    /// One is something else, in upstream's words.
    pub fn read(patterns: &[String]) -> Result<Self, String> {
        let mut all = Self::default();
        for pattern in patterns {
            if pattern.trim() != pattern {
                return Err(format!(
                    "leading/trailing spaces are not allowed: {pattern}"
                ));
            }
            let beginning = pattern.strip_suffix('*').filter(|b| b.ends_with('/'));
            let plain = beginning.unwrap_or(pattern);
            if plain.is_empty() {
                return Err(format!("the supplied pattern is too short: {pattern}"));
            }
            if plain.contains('*') {
                return Err(format!(
                    "not a valid wildcard pattern, only patterns ending with '/*' are allowed: {pattern}"
                ));
            }
            match beginning {
                Some("/") => return Err("at least registry hostname is required".into()),
                Some(beginning) => all.beginnings.push(beginning.to_owned()),
                None if bare(plain) != plain => {
                    return Err(format!(
                        "neither tag nor digest is accepted in an image reference: {pattern}"
                    ));
                }
                None => all.names.push(plain.to_owned()),
            }
        }
        Ok(all)
    }

    fn has(&self, image: &str) -> bool {
        let name = bare(image);
        self.names.iter().any(|n| n == name)
            || self.beginnings.iter().any(|b| name.starts_with(b.as_str()))
    }
}

/// The name of an image without tag and digest.
pub(super) fn bare(image: &str) -> &str {
    let image = image.split_once('@').map_or(image, |(name, _)| name);
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => image,
    }
}

impl Verification {
    /// Whether a pod must prove that it may use an image. `pulled`: a kubelet fetched it.
    #[must_use]
    pub fn asks(&self, image: &str, pulled: bool) -> bool {
        match self {
            Self::Never => false,
            Self::NotPreloaded => pulled,
            Self::NotListed(list) => !list.has(image),
            Self::Always => true,
        }
    }

    /// The policy's name in the API.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Never => "NeverVerify",
            Self::NotPreloaded => "NeverVerifyPreloadedImages",
            Self::NotListed(_) => "NeverVerifyAllowlistedImages",
            Self::Always => "AlwaysVerify",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(patterns: &[&str]) -> Result<ImageList, String> {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        ImageList::read(&patterns)
    }

    #[test]
    fn a_policy_says_of_which_images_is_asked() {
        let listed = list(&["reg.io/base", "reg.io/tools/*"]).unwrap();
        let listed = Verification::NotListed(listed);
        for (policy, image, pulled, asks) in [
            (&Verification::Never, "a", true, false),
            (&Verification::NotPreloaded, "a", false, false),
            (&Verification::NotPreloaded, "a", true, true),
            (&Verification::Always, "a", false, true),
            (&listed, "reg.io/base:1", true, false),
            (&listed, "reg.io/tools/a@sha256:ab", false, false),
            (&listed, "reg.io/tools", false, true),
            (&listed, "reg.io/other:1", false, true),
        ] {
            assert_eq!(policy.asks(image, pulled), asks, "{policy:?} {image}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for (pattern, why) in [
            (" a", "spaces"),
            ("", "too short"),
            ("a*", "only patterns ending with"),
            ("a/*/b", "only patterns ending with"),
            ("/*", "registry hostname"),
            ("reg.io/a:1", "neither tag nor digest"),
        ] {
            let fault = list(&[pattern]).unwrap_err();
            assert!(fault.contains(why), "{pattern:?}: {fault}");
        }
    }
}
