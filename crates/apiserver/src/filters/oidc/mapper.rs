//! From the claims of a token to a user: by the names of claims, or by CEL expressions, and the rules
//! that both must satisfy. Pure; messages are upstream's.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use access::UserInfo;
use access::attributes::CREDENTIAL_ID;
use cel::decl::NO_MAX;
use cel::{Decl, DeclKind, Env, ListKind, PER_CALL_LIMIT, Program, Type, Value};
use serde_json::{Map, Value as Json, json};

/// The claims of a token.
pub type Claims = Map<String, Json>;

/// What tokens of one issuer become.
#[derive(Default)]
pub struct Mapper {
    /// None only where the configuration is wrong.
    pub username: Option<Mapping>,
    pub groups: Option<Mapping>,
    pub uid: Option<Mapping>,
    pub extra: Vec<(String, Rule)>,
    /// Claims that must have these values.
    pub required: Vec<(String, String)>,
    /// With what is said when they do not hold.
    pub claim_rules: Vec<(Rule, String)>,
    pub user_rules: Vec<(Rule, String)>,
}

/// Where one part of the user comes from.
pub enum Mapping {
    Claim(Claim),
    Expression(Rule),
}

pub struct Claim {
    pub name: String,
    pub prefix: String,
}

/// What an expression is over, and what it must give.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Claims; anything.
    Claims,
    /// Claims; a bool.
    ClaimRule,
    /// The user; a bool.
    UserRule,
}

/// An expression.
pub struct Rule {
    source: String,
    program: Program,
}

fn text() -> Arc<Decl> {
    Arc::new(Decl::new("string", DeclKind::String, NO_MAX, 1))
}

fn texts() -> Decl {
    let kind = DeclKind::List(text(), ListKind::Atomic);
    Decl::new("list", kind, NO_MAX, 1)
}

static CLAIMS: LazyLock<Arc<Decl>> = LazyLock::new(|| {
    let any = Arc::new(Decl::any().with_escaped_keys());
    Arc::new(Decl::new("map", DeclKind::Map(any), NO_MAX, 1))
});

static USER: LazyLock<Arc<Decl>> = LazyLock::new(|| {
    let extra = DeclKind::Map(Arc::new(texts().with_escaped_keys()));
    let fields = [
        ("username", text()),
        ("uid", text()),
        ("groups", Arc::new(texts())),
        ("extra", Arc::new(Decl::new("map", extra, NO_MAX, 1))),
    ];
    let fields = fields.map(|(name, decl)| (name.to_owned(), decl));
    Arc::new(Decl::object("kubernetes.UserInfo", fields))
});

impl Rule {
    /// Compiles an expression; an error is upstream's text.
    pub fn compile(over: Over, source: &str) -> Result<Self, String> {
        let (name, decl) = match over {
            Over::Claims | Over::ClaimRule => ("claims", &*CLAIMS),
            Over::UserRule => ("user", &*USER),
        };
        let env = Env::new().variable(name, decl.clone());
        let program =
            Program::compile(source, &env).map_err(|e| format!("compilation failed: {e}"))?;
        if over != Over::Claims && !matches!(program.result(), Type::Bool) {
            return Err("must evaluate to bool".into());
        }
        let source = source.to_owned();
        Ok(Self { source, program })
    }

    fn run<'a>(&'a self, over: &'a Json, decl: &'a Decl) -> Result<Value<'a>, String> {
        let value = Value::read(over, decl).ok();
        let done = self.program.evaluate(&[value], PER_CALL_LIMIT);
        let failed = |e| format!("expression '{}' resulted in error: {e}", self.source);
        done.result.map_err(failed)
    }

    /// Nothing when it holds.
    fn holds(&self, message: &str, over: &Json, decl: &Decl) -> Result<(), String> {
        match self.run(over, decl)? {
            Value::Bool(true) => Ok(()),
            Value::Bool(false) => {
                let source = &self.source;
                Err(format!(
                    "validation expression '{source}' failed: {message}"
                ))
            }
            _ => Err("validation expression must return a boolean".into()),
        }
    }

    fn reads(&self, claim: &str) -> bool {
        self.program.selects(0, claim)
    }
}

impl Mapper {
    /// The name comes from an address that nobody looks at whether it is verified.
    pub fn takes_unverified_email(&self) -> bool {
        let Some(Mapping::Expression(username)) = &self.username else {
            return false;
        };
        let extra = self.extra.iter().map(|(_, rule)| rule);
        let rules = self.claim_rules.iter().map(|(rule, _)| rule);
        let mut all = std::iter::once(username).chain(extra).chain(rules);
        username.reads("email") && !all.any(|rule| rule.reads("email_verified"))
    }

    /// The user of a token that was verified.
    pub fn user(&self, claims: &Claims) -> Result<UserInfo, String> {
        let seen = Json::Object(claims.iter().map(|(k, v)| (k.clone(), seen(v))).collect());
        let user = UserInfo {
            name: self.username(claims, &seen)?,
            groups: self.groups(claims, &seen)?,
            uid: self.uid(claims, &seen)?,
            extra: self.extra(claims, &seen)?,
        };
        for (claim, value) in &self.required {
            let held = claims
                .get(claim)
                .ok_or_else(|| format!("required claim {claim} not present in ID token"))?;
            let held = text_of(held).map_err(|e| format!("parse claim {claim}: {e}"))?;
            if held != value {
                return Err(format!(
                    "required claim {claim} value does not match. Got = {held}, want = {value}"
                ));
            }
        }
        for (rule, message) in &self.claim_rules {
            rule.holds(message, &seen, &CLAIMS)
                .map_err(|e| format!("error evaluating claim validation expression: {e}"))?;
        }
        if !self.user_rules.is_empty() {
            let shown = json!({
                "username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra,
            });
            for (rule, message) in &self.user_rules {
                rule.holds(message, &shown, &USER)
                    .map_err(|e| format!("error evaluating user info validation rule: {e}"))?;
            }
        }
        Ok(user)
    }

    fn username(&self, claims: &Claims, seen: &Json) -> Result<String, String> {
        let claim = match &self.username {
            None => return Err("no claim is mapped to the username".into()),
            Some(Mapping::Claim(claim)) => claim,
            Some(Mapping::Expression(rule)) => {
                let failed = |e| format!("error evaluating username claim expression: {e}");
                return match rule.run(seen, &CLAIMS).map_err(failed)? {
                    Value::String(name) if name.is_empty() => {
                        Err("empty username via CEL expression is not allowed".into())
                    }
                    Value::String(name) => Ok(name.to_string()),
                    _ => Err(failed(
                        "username claim expression must return a string".into(),
                    )),
                };
            }
        };
        let wrong = |e| format!("parse username claims {:?}: {e}", claim.name);
        let held = claims.get(&claim.name).ok_or("claim not present");
        let name = text_of(held.map_err(|e| wrong(e.to_owned()))?).map_err(wrong)?;
        if claim.name == "email" {
            match claims.get("email_verified") {
                None | Some(Json::Bool(true)) => {}
                Some(Json::Bool(false)) => return Err("email not verified".into()),
                Some(other) => {
                    let what = kind(other);
                    return Err(format!(
                        "parse 'email_verified' claim: json: cannot unmarshal {what} into Go value of type bool"
                    ));
                }
            }
        }
        let name = format!("{}{name}", claim.prefix);
        match name.is_empty() {
            true => Err(wrong("it is empty".into())),
            false => Ok(name),
        }
    }

    fn groups(&self, claims: &Claims, seen: &Json) -> Result<Vec<String>, String> {
        match &self.groups {
            None => Ok(Vec::new()),
            Some(Mapping::Claim(claim)) => {
                let wrong = |e| format!("parse groups claim {:?}: {e}", claim.name);
                let held = match claims.get(&claim.name) {
                    None | Some(Json::Null) => return Ok(Vec::new()),
                    Some(Json::Array(all)) => all.iter().collect(),
                    Some(one) => vec![one],
                };
                let one = |group| Ok(format!("{}{}", claim.prefix, text_of(group)?));
                let all = held.into_iter().map(one).collect::<Result<_, String>>();
                all.map_err(wrong)
            }
            Some(Mapping::Expression(rule)) => {
                let groups = rule.run(seen, &CLAIMS).and_then(list);
                groups.map_err(|e| format!("error evaluating group claim expression: {e}"))
            }
        }
    }

    fn uid(&self, claims: &Claims, seen: &Json) -> Result<String, String> {
        match &self.uid {
            None => Ok(String::new()),
            Some(Mapping::Claim(claim)) => {
                let wrong = |e| format!("parse uid claim {:?}: {e}", claim.name);
                let held = claims.get(&claim.name).ok_or("claim not present");
                let held = held.map_err(|e| wrong(e.to_owned()))?;
                text_of(held).map(str::to_owned).map_err(wrong)
            }
            Some(Mapping::Expression(rule)) => {
                let failed = |e| format!("error evaluating uid claim expression: {e}");
                match rule.run(seen, &CLAIMS).map_err(failed)? {
                    Value::String(uid) => Ok(uid.to_string()),
                    _ => Err(failed("uid claim expression must return a string".into())),
                }
            }
        }
    }

    fn extra(&self, claims: &Claims, seen: &Json) -> Result<BTreeMap<String, Vec<String>>, String> {
        let mut all = BTreeMap::new();
        if let Some(id) = claims.get("jti").and_then(Json::as_str)
            && !id.is_empty()
        {
            all.insert(CREDENTIAL_ID.to_owned(), vec![format!("JTI={id}")]);
        }
        for (key, rule) in &self.extra {
            let failed = |e| {
                let source = &rule.source;
                format!("error evaluating extra claim expression: {source}: {e}")
            };
            let values = rule.run(seen, &CLAIMS)?;
            let values = list(values).map_err(failed)?;
            if !values.is_empty() {
                all.insert(key.clone(), values);
            }
        }
        Ok(all)
    }
}

/// A claim as expressions see it: all numbers are doubles, as Go reads JSON.
fn seen(value: &Json) -> Json {
    match value {
        Json::Number(n) => n.as_f64().map_or(Json::Null, Json::from),
        Json::Array(items) => items.iter().map(seen).collect(),
        Json::Object(map) => Json::Object(map.iter().map(|(k, v)| (k.clone(), seen(v))).collect()),
        other => other.clone(),
    }
}

fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "bool",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}

fn text_of(value: &Json) -> Result<&str, String> {
    value.as_str().ok_or_else(|| {
        let what = kind(value);
        format!("json: cannot unmarshal {what} into Go value of type string")
    })
}

/// A text, or texts; those that are empty do not count.
fn list(value: Value<'_>) -> Result<Vec<String>, String> {
    let wrong = || "expression must return a string or a list of strings".to_owned();
    let mut all = match value {
        Value::Null => Vec::new(),
        Value::String(text) => vec![text.to_string()],
        Value::List(items) => {
            let one = |item| match item {
                Ok(Value::String(text)) => Ok(text.to_string()),
                _ => Err(wrong()),
            };
            items.iter().map(one).collect::<Result<_, _>>()?
        }
        _ => return Err(wrong()),
    };
    all.retain(|text| !text.is_empty());
    Ok(all)
}
