//! What is wrong with an AuthenticationConfiguration, in upstream's words; what is right is compiled
//! on the way ([`Mapper`]).

use api::{FieldError, FieldPath, names};
use serde_json::json;

use super::config::{
    AuthenticationConfiguration, ClaimMappings, ClaimValidationRule, ExtraMapping, Issuer,
    JwtAuthenticator, PrefixedClaimOrExpression, UserValidationRule,
};
use super::mapper::{Claim, Mapper, Mapping, Over, Rule};

/// Issuers of one configuration; upstream's bound.
const MOST_ISSUERS: usize = 64;
/// The only policy there is.
const MATCH_ANY: &str = "MatchAny";
const NOT_BOTH: &str = "claim and expression can't both be set";

/// Gives what tokens of each issuer become, or all that is wrong. `disallowed`: issuers of other
/// ways, such as that of service accounts.
pub fn check(
    configuration: &AuthenticationConfiguration,
    disallowed: &[String],
) -> Result<Vec<Mapper>, Vec<FieldError>> {
    let root = FieldPath::new("jwt");
    let jwt = &configuration.jwt;
    if jwt.len() > MOST_ISSUERS {
        return Err(vec![FieldError::too_many(&root, jwt.len(), MOST_ISSUERS)]);
    }
    let mut errors = Vec::new();
    let mut mappers = Vec::new();
    for (i, one) in jwt.iter().enumerate() {
        let path = root.index(i);
        mappers.push(authenticator(&mut errors, one, &path, disallowed));
        let before = jwt.iter().take(i).map(|other| &other.issuer);
        let (url, discovery) = (&one.issuer.url, &one.issuer.discovery_url);
        let issuer = path.child("issuer");
        if before.clone().any(|other| other.url == *url) {
            errors.push(FieldError::duplicate(&issuer.child("url"), &json!(url)));
        }
        let mut before = before.map(|other| &other.discovery_url);
        if !discovery.is_empty() && before.any(|other| other == discovery) {
            let path = issuer.child("discoveryURL");
            errors.push(FieldError::duplicate(&path, &json!(discovery)));
        }
    }
    if let Some(anonymous) = &configuration.anonymous
        && !anonymous.enabled
        && !anonymous.conditions.is_empty()
    {
        errors.push(FieldError::invalid(
            &FieldPath::new("anonymous").child("conditions"),
            &json!(anonymous.conditions),
            "enabled should be set to true when conditions are defined",
        ));
    }
    match errors.is_empty() {
        true => Ok(mappers),
        false => Err(errors),
    }
}

fn authenticator(
    errors: &mut Vec<FieldError>,
    one: &JwtAuthenticator,
    path: &FieldPath,
    disallowed: &[String],
) -> Mapper {
    issuer(errors, &one.issuer, &path.child("issuer"), disallowed);
    let mut mapper = Mapper::default();
    claim_rules(
        errors,
        &mut mapper,
        &one.claim_validation_rules,
        &path.child("claimValidationRules"),
    );
    let mappings = path.child("claimMappings");
    claim_mappings(errors, &mut mapper, &one.claim_mappings, &mappings);
    user_rules(
        errors,
        &mut mapper,
        &one.user_validation_rules,
        &path.child("userValidationRules"),
    );
    mapper
}

fn issuer(errors: &mut Vec<FieldError>, issuer: &Issuer, path: &FieldPath, disallowed: &[String]) {
    let url_path = path.child("url");
    if issuer.url.is_empty() {
        errors.push(FieldError::required(&url_path, ""));
    } else {
        url(errors, &issuer.url, &url_path, disallowed);
    }
    if !issuer.discovery_url.is_empty() {
        let path = path.child("discoveryURL");
        let bare = |text: &str| text.trim_end_matches('/').to_owned();
        if !issuer.url.is_empty() && bare(&issuer.url) == bare(&issuer.discovery_url) {
            let why = "discoveryURL must be different from URL";
            errors.push(FieldError::invalid_str(&path, &issuer.discovery_url, why));
        }
        url(errors, &issuer.discovery_url, &path, &[]);
    }
    audiences(errors, issuer, path);
    if !issuer.certificate_authority.is_empty()
        && let Err(e) = wire::trust::certificates(issuer.certificate_authority.as_bytes())
    {
        errors.push(FieldError::invalid_str(
            &path.child("certificateAuthority"),
            "<omitted>",
            &e.to_string(),
        ));
    }
    if !issuer.egress_selector_type.is_empty() {
        let known = matches!(&*issuer.egress_selector_type, "controlplane" | "cluster");
        let why = match known {
            // Upstream refuses it at the start, too, without --egress-selector-config-file.
            true => "egress selectors are not configured: this server connects to issuers directly",
            false => "egress selector must be either controlplane or cluster",
        };
        let path = path.child("egressSelectorType");
        let value = &issuer.egress_selector_type;
        errors.push(FieldError::invalid_str(&path, value, why));
    }
}

fn url(errors: &mut Vec<FieldError>, url: &str, path: &FieldPath, disallowed: &[String]) {
    let mut wrong = |why: &str| errors.push(FieldError::invalid_str(path, url, why));
    if disallowed.iter().any(|d| d == url) {
        let mut all: Vec<&str> = disallowed.iter().map(String::as_str).collect();
        all.sort_unstable();
        let all = all.join(" ");
        wrong(&format!(
            "URL must not overlap with disallowed issuers: [{all}]"
        ));
    }
    let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (bare, query) = rest.split_once('?').unwrap_or((rest, ""));
    let parsed = match bare.parse::<http::Uri>() {
        Ok(parsed) => parsed,
        Err(e) => return wrong(&format!("parse {url:?}: {e}")),
    };
    if parsed.scheme_str() != Some("https") {
        wrong("URL scheme must be https");
    }
    if parsed.authority().is_some_and(|a| a.as_str().contains('@')) {
        wrong("URL must not contain a username or password");
    }
    if !query.is_empty() {
        wrong("URL must not contain a query");
    }
    if !fragment.is_empty() {
        wrong("URL must not contain a fragment");
    }
}

fn audiences(errors: &mut Vec<FieldError>, issuer: &Issuer, path: &FieldPath) {
    let (all, policy) = (&issuer.audiences, &*issuer.audience_match_policy);
    let (list_path, policy_path) = (path.child("audiences"), path.child("audienceMatchPolicy"));
    if all.is_empty() {
        let why = format!("at least one {list_path} is required");
        errors.push(FieldError::required(&list_path, &why));
        return;
    }
    for (i, audience) in all.iter().enumerate() {
        let path = list_path.index(i);
        if audience.is_empty() {
            errors.push(FieldError::required(&path, ""));
        }
        if all.iter().take(i).any(|other| other == audience) {
            errors.push(FieldError::duplicate(&path, &json!(audience)));
        }
    }
    let why = match (all.len(), policy) {
        (_, MATCH_ANY) | (1, "") => return,
        (1, _) => "audienceMatchPolicy must be empty or MatchAny for single audience",
        _ => "audienceMatchPolicy must be MatchAny for multiple audiences",
    };
    errors.push(FieldError::invalid_str(&policy_path, policy, why));
}

/// Compiles an expression; what is wrong with it becomes an error.
fn compile(
    errors: &mut Vec<FieldError>,
    over: Over,
    source: &str,
    path: &FieldPath,
) -> Option<Rule> {
    match Rule::compile(over, source) {
        Ok(rule) => Some(rule),
        Err(why) => {
            errors.push(FieldError::invalid_str(path, source, &why));
            None
        }
    }
}

fn claim_rules(
    errors: &mut Vec<FieldError>,
    mapper: &mut Mapper,
    rules: &[ClaimValidationRule],
    path: &FieldPath,
) {
    for (i, rule) in rules.iter().enumerate() {
        let path = path.index(i);
        let before = || rules.iter().take(i);
        match (rule.claim.is_empty(), rule.expression.is_empty()) {
            (false, false) => errors.push(FieldError::invalid_str(&path, &rule.claim, NOT_BOTH)),
            (true, true) => {
                let why = "claim or expression is required";
                errors.push(FieldError::required(&path, why));
            }
            (false, true) => {
                if !rule.message.is_empty() {
                    let why = "may not be specified when claim is set";
                    let path = path.child("message");
                    errors.push(FieldError::invalid_str(&path, &rule.message, why));
                }
                if before().any(|other| other.claim == rule.claim) {
                    let path = path.child("claim");
                    errors.push(FieldError::duplicate(&path, &json!(rule.claim)));
                }
                let required = (rule.claim.clone(), rule.required_value.clone());
                mapper.required.push(required);
            }
            (true, false) => {
                if !rule.required_value.is_empty() {
                    let why = "may not be specified when expression is set";
                    let path = path.child("requiredValue");
                    errors.push(FieldError::invalid_str(&path, &rule.required_value, why));
                }
                let path = path.child("expression");
                if before().any(|other| other.expression == rule.expression) {
                    errors.push(FieldError::duplicate(&path, &json!(rule.expression)));
                    continue;
                }
                let compiled = compile(errors, Over::ClaimRule, &rule.expression, &path);
                let compiled = compiled.map(|r| (r, rule.message.clone()));
                mapper.claim_rules.extend(compiled);
            }
        }
    }
}

fn claim_mappings(
    errors: &mut Vec<FieldError>,
    mapper: &mut Mapper,
    mappings: &ClaimMappings,
    path: &FieldPath,
) {
    let username = path.child("username");
    mapper.username = prefixed(errors, &mappings.username, &username, true);
    mapper.groups = prefixed(errors, &mappings.groups, &path.child("groups"), false);
    let (uid, uid_path) = (&mappings.uid, path.child("uid"));
    mapper.uid = match (uid.claim.is_empty(), uid.expression.is_empty()) {
        (true, true) => None,
        (false, false) => {
            errors.push(FieldError::invalid_str(&uid_path, "", NOT_BOTH));
            None
        }
        (false, true) => Some(Mapping::Claim(Claim {
            name: uid.claim.clone(),
            prefix: String::new(),
        })),
        (true, false) => {
            let path = uid_path.child("expression");
            compile(errors, Over::Claims, &uid.expression, &path).map(Mapping::Expression)
        }
    };
    for (i, one) in mappings.extra.iter().enumerate() {
        let before = mappings.extra.iter().take(i);
        let is_new = before.into_iter().all(|other| other.key != one.key);
        extra(errors, mapper, one, is_new, &path.child("extra").index(i));
    }
    if mapper.takes_unverified_email() {
        let why = "claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression";
        let path = username.child("expression");
        let source = &mappings.username.expression;
        errors.push(FieldError::invalid_str(&path, source, why));
    }
}

fn prefixed(
    errors: &mut Vec<FieldError>,
    mapping: &PrefixedClaimOrExpression,
    path: &FieldPath,
    required: bool,
) -> Option<Mapping> {
    match (mapping.claim.is_empty(), mapping.expression.is_empty()) {
        (false, false) => {
            errors.push(FieldError::invalid_str(path, "", NOT_BOTH));
            None
        }
        (true, true) => {
            if required {
                let why = "claim or expression is required";
                errors.push(FieldError::required(path, why));
            }
            None
        }
        (true, false) => {
            if let Some(prefix) = &mapping.prefix {
                let why = "may not be specified when expression is set";
                errors.push(FieldError::invalid_str(&path.child("prefix"), prefix, why));
            }
            let path = path.child("expression");
            compile(errors, Over::Claims, &mapping.expression, &path).map(Mapping::Expression)
        }
        (false, true) => {
            if mapping.prefix.is_none() {
                let why = "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
                errors.push(FieldError::required(&path.child("prefix"), why));
            }
            Some(Mapping::Claim(Claim {
                name: mapping.claim.clone(),
                prefix: mapping.prefix.clone().unwrap_or_default(),
            }))
        }
    }
}

fn extra(
    errors: &mut Vec<FieldError>,
    mapper: &mut Mapper,
    mapping: &ExtraMapping,
    is_new: bool,
    path: &FieldPath,
) {
    let (key, key_path) = (&*mapping.key, path.child("key"));
    domain_prefixed(errors, key, &key_path);
    if key.chars().any(char::is_uppercase) {
        errors.push(FieldError::invalid_str(&key_path, key, "must be lowercase"));
    }
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let reserved = ["kubernetes.io", "k8s.io"];
    if reserved
        .iter()
        .any(|r| domain == *r || domain.ends_with(&format!(".{r}")))
    {
        let why = "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use";
        errors.push(FieldError::invalid_str(&key_path, key, why));
    }
    if !is_new {
        errors.push(FieldError::duplicate(&key_path, &json!(key)));
        return;
    }
    let path = path.child("valueExpression");
    if mapping.value_expression.is_empty() {
        errors.push(FieldError::required(&path, ""));
        return;
    }
    let compiled = compile(errors, Over::Claims, &mapping.value_expression, &path);
    mapper.extra.extend(compiled.map(|r| (key.to_owned(), r)));
}

/// What is wrong with a key that is to be like `acme.io/foo`.
pub fn domain_prefixed(errors: &mut Vec<FieldError>, key: &str, path: &FieldPath) {
    if key.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let (domain, rest) = match key.split_once('/') {
        Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => (domain, rest),
        _ => {
            let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.push(FieldError::invalid_str(path, key, why));
            return;
        }
    };
    for why in names::is_dns1123_subdomain(domain) {
        errors.push(FieldError::invalid_str(path, domain, &why));
    }
    let good = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    if !rest.bytes().all(good) {
        let why = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        errors.push(FieldError::invalid_str(path, rest, why));
    }
}

fn user_rules(
    errors: &mut Vec<FieldError>,
    mapper: &mut Mapper,
    rules: &[UserValidationRule],
    path: &FieldPath,
) {
    for (i, rule) in rules.iter().enumerate() {
        let path = path.index(i).child("expression");
        if rule.expression.is_empty() {
            errors.push(FieldError::required(&path, ""));
            continue;
        }
        let mut before = rules.iter().take(i);
        if before.any(|other| other.expression == rule.expression) {
            errors.push(FieldError::duplicate(&path, &json!(rule.expression)));
            continue;
        }
        let compiled = compile(errors, Over::UserRule, &rule.expression, &path);
        let compiled = compiled.map(|r| (r, rule.message.clone()));
        mapper.user_rules.extend(compiled);
    }
}
