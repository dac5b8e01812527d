//! What the rules of a schema may cost: each as often as values of its place may occur, and all
//! together.

use std::sync::Arc;

use api::{FieldError, FieldPath};
use cel::Decl;
use cel::decl::MAX_REQUEST_BYTES;
use serde_json::{Map, Value as Json};

use super::Options;
use crate::decl::declare;
use crate::model::{Additional, Rule, Structural, text};
use crate::validation_rules;

/// What one rule may cost by estimation.
const RULE_LIMIT: u64 = 10_000_000;
/// What all rules of a schema may cost together.
const SCHEMA_LIMIT: u64 = 100_000_000;
/// Rules that are named when the sum is too large.
const NAMED: usize = 4;

/// Where the check is in the schema, and what was found so far.
pub(super) struct Costs<'s> {
    places: Vec<SchemaPlace<'s>>,
    total: u64,
    expensive: Vec<(u64, FieldPath)>,
}

/// Rules of one place.
#[derive(Clone, Copy)]
pub(super) struct Rules<'r> {
    pub rules: &'r [Rule],
    /// As they were written.
    pub raw: &'r [Json],
    pub at: &'r FieldPath,
    /// The part around it whose values have no past.
    pub uncorrelatable: Option<&'r FieldPath>,
    pub options: Options,
}

#[derive(Clone)]
struct SchemaPlace<'s> {
    schema: Option<&'s Structural>,
    decl: Option<Arc<Decl>>,
    /// Most values of this place in one object; none without a bound.
    count: Option<u64>,
}

impl<'s> Costs<'s> {
    pub fn new(schema: &'s Structural) -> Self {
        let root = SchemaPlace {
            schema: Some(schema),
            decl: declare(schema, true),
            count: Some(1),
        };
        Self {
            places: vec![root],
            total: 0,
            expensive: Vec::new(),
        }
    }

    fn enter(
        &mut self,
        map: &Map<String, Json>,
        go: impl FnOnce(&SchemaPlace<'s>) -> (Option<&'s Structural>, Option<Arc<Decl>>),
    ) {
        let Some(here) = self.places.last() else {
            return;
        };
        let (schema, decl) = go(here);
        let most = |word: &str| map.get(word).and_then(Json::as_i64);
        let times = match text(map, "type") {
            "object" if map.contains_key("additionalProperties") => most("maxProperties"),
            "array" => most("maxItems"),
            _ => Some(1),
        };
        let times = times.map(|n| u64::try_from(n).unwrap_or(0));
        let count = here.count.zip(times).map(|(a, b)| a.saturating_mul(b));
        self.places.push(SchemaPlace {
            schema,
            decl,
            count,
        });
    }

    pub fn property(&mut self, map: &Map<String, Json>, name: &str) {
        self.enter(map, |here| {
            let schema = here.schema.and_then(|s| s.properties.get(name));
            let field = match (cel::escape(name), &here.decl) {
                (Some(escaped), Some(decl)) => decl.field(&escaped).map(|f| f.decl.clone()),
                _ => schema.and_then(|s| declare(s, s.embedded)),
            };
            (schema, field)
        });
    }

    pub fn additional(&mut self, map: &Map<String, Json>) {
        self.enter(map, |here| {
            let schema = here.schema.and_then(|s| match &s.additional {
                Additional::Schema(below) => Some(&**below),
                _ => None,
            });
            let decl = here.decl.as_ref().and_then(|d| d.element().cloned());
            (schema, decl)
        });
    }

    pub fn items(&mut self, map: &Map<String, Json>) {
        self.enter(map, |here| {
            let schema = here.schema.and_then(|s| s.items.as_deref());
            let decl = here.decl.as_ref().and_then(|d| d.element().cloned());
            (schema, decl)
        });
    }

    pub fn leave(&mut self) {
        self.places.pop();
    }

    /// Compiles the rules of this place and counts what they cost.
    pub fn rules(&mut self, place: &Rules, errors: &mut Vec<FieldError>) {
        let Rules {
            rules,
            raw,
            at,
            options,
            ..
        } = *place;
        let Some(here) = self.places.last().cloned() else {
            return;
        };
        let (Some(schema), Some(decl)) = (here.schema, here.decl) else {
            errors.push(FieldError::invalid_str(
                at,
                "",
                "internal error: failed to retrieve type information for x-kubernetes-validations",
            ));
            return;
        };
        let many = u64::try_from(MAX_REQUEST_BYTES / (decl.min_size + 1)).unwrap_or(u64::MAX);
        let times = here.count.unwrap_or(many);
        for (i, compiled) in validation_rules::compile(schema, rules, &decl)
            .iter()
            .enumerate()
        {
            let given = raw.get(i).cloned().unwrap_or_default();
            let at = at.index(i);
            match &compiled.program {
                Err(what) => errors.push(FieldError::invalid(&at.child("rule"), &given, what)),
                Ok(program) => {
                    let cost = program.cost().max.saturating_mul(times);
                    let name = "estimated rule cost";
                    self.count(cost, name, at.child("rule"), options, errors);
                }
            }
            match &compiled.message {
                Some(Err(what)) => {
                    let at = at.child("messageExpression");
                    errors.push(FieldError::invalid(&at, &given, what));
                }
                Some(Ok(program)) => {
                    let name = "estimated messageExpression cost";
                    let at = at.child("messageExpression");
                    self.count(program.cost().max, name, at, options, errors);
                }
                None => {}
            }
            if compiled.uses_old
                && let Some(part) = place.uncorrelatable
            {
                let what = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {part}"
                );
                let rule = &compiled.rule.rule;
                errors.push(FieldError::invalid_str(&at.child("rule"), rule, &what));
            }
            if let (false, true, Some(optional)) = (
                compiled.uses_old,
                compiled.program.is_ok(),
                compiled.rule.optional_old_self,
            ) {
                errors.push(FieldError::invalid(
                    &at.child("optionalOldSelf"),
                    &optional.into(),
                    "may not be set if oldSelf is not used in rule",
                ));
            }
        }
    }

    fn count(
        &mut self,
        cost: u64,
        name: &str,
        at: FieldPath,
        options: Options,
        errors: &mut Vec<FieldError>,
    ) {
        if cost > RULE_LIMIT && !options.unlimited_costs {
            let what = exceeded(name, cost, RULE_LIMIT);
            errors.push(FieldError::forbidden(&at, &what));
        }
        self.total = self.total.saturating_add(cost);
        if cost >= SCHEMA_LIMIT / 100 {
            self.expensive.push((cost, at));
            self.expensive
                .sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
            self.expensive.truncate(NAMED);
        }
    }

    /// Whether all rules together are too expensive.
    pub fn check(self, unlimited: bool, path: &FieldPath, errors: &mut Vec<FieldError>) {
        if unlimited || self.total <= SCHEMA_LIMIT {
            return;
        }
        for (_, at) in &self.expensive {
            errors.push(FieldError::forbidden(
                at,
                "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema",
            ));
        }
        let name = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        let what = exceeded(name, self.total, SCHEMA_LIMIT);
        errors.push(FieldError::forbidden(path, &what));
    }
}

fn exceeded(name: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{name} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}
