//! Which taints a toleration means (documentation "Taints and Tolerations").

/// A taint of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taint<'a> {
    /// Its key.
    pub key: &'a str,
    /// Its value; empty for none.
    pub value: &'a str,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: &'a str,
}

/// A toleration of a pod. What is absent is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Toleration<'a> {
    /// The key of the taints that it means; empty for all.
    pub key: &'a str,
    /// `Equal` (or empty) or `Exists`.
    pub operator: &'a str,
    /// The value of the taints that it means.
    pub value: &'a str,
    /// The effect of the taints that it means; empty for all.
    pub effect: &'a str,
}

impl Toleration<'_> {
    /// Whether it means a taint.
    #[must_use]
    pub fn tolerates(&self, taint: &Taint) -> bool {
        let any = |field: &str, value: &str| field.is_empty() || field == value;
        any(self.effect, taint.effect)
            && any(self.key, taint.key)
            && match self.operator {
                "" | "Equal" => self.value == taint.value,
                "Exists" => true,
                _ => false,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_effects_and_values_must_match_where_they_are_given() {
        let taint = Taint {
            key: "k",
            value: "v",
            effect: "NoExecute",
        };
        let of = |key, operator, value, effect| {
            Toleration {
                key,
                operator,
                value,
                effect,
            }
            .tolerates(&taint)
        };
        assert!(of("k", "", "v", ""));
        assert!(of("k", "Equal", "v", "NoExecute"));
        assert!(of("k", "Exists", "", ""));
        assert!(of("", "Exists", "", ""));
        assert!(!of("k", "Equal", "w", ""));
        assert!(!of("k", "Equal", "v", "NoSchedule"));
        assert!(!of("l", "Exists", "", ""));
        assert!(!of("k", "Gt", "v", ""));
    }
}
