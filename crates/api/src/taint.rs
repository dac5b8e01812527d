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

impl<'a> Taint<'a> {
    /// Of the fields of a taint as objects have them, of nodes and of devices.
    #[must_use]
    pub fn of(key: &'a str, value: &'a Option<String>, effect: &'a str) -> Self {
        Self {
            key,
            value: text(value),
            effect,
        }
    }
}

impl<'a> Toleration<'a> {
    /// Of the fields of a toleration as objects have them, of pods and of requests for devices.
    #[must_use]
    pub fn of(
        key: &'a Option<String>,
        operator: &'a Option<String>,
        value: &'a Option<String>,
        effect: &'a Option<String>,
    ) -> Self {
        Self {
            key: text(key),
            operator: text(operator),
            value: text(value),
            effect: text(effect),
        }
    }

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

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_are_absent_are_empty() {
        let some = |text: &str| Some(text.to_owned());
        let (key, operator, value, none) = (some("k"), some("Equal"), some("v"), None);
        let toleration = Toleration::of(&key, &operator, &value, &none);
        assert_eq!((toleration.key, toleration.operator), ("k", "Equal"));
        assert_eq!((toleration.value, toleration.effect), ("v", ""));
        assert!(toleration.tolerates(&Taint::of("k", &value, "NoExecute")));
        assert!(!toleration.tolerates(&Taint::of("k", &none, "NoExecute")));
    }

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
