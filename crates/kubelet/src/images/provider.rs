//! Programs of the node that give credentials for images: what a CredentialProviderConfig says of them, and
//! what they are asked and answer (`credentialprovider.kubelet.k8s.io`). Pure.

use super::keyring;
use host::runtime::Credential;
use k8s_openapi::api::core::v1::ServiceAccount;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Versions of what programs are asked, the newest first; only this one has tokens.
const VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
];
/// Versions of the files that name them.
const FILES: [&str; 3] = [
    "kubelet.config.k8s.io/v1",
    "kubelet.config.k8s.io/v1beta1",
    "kubelet.config.k8s.io/v1alpha1",
];

/// A program that gives credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provider {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub program: PathBuf,
    /// In which version it is asked.
    pub version: String,
    /// For which images: as credentials name places.
    pub images: Vec<String>,
    /// How long its answers hold where they do not say that.
    pub lasts: Duration,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment beside the kubelet's.
    pub env: Vec<(String, String)>,
    /// It is given a token of the pod's service account.
    pub tokens: Option<TokenRules>,
}

/// Which tokens a program is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRules {
    /// For whom they are.
    pub audience: String,
    /// Its answers are for one token; else for the service account.
    pub each: bool,
    /// Without a service account it is not asked.
    pub required: bool,
    /// Annotations without which it is not asked.
    pub needs: Vec<String>,
    /// Further ones that it hears of.
    pub takes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    providers: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default)]
    match_images: Vec<String>,
    default_cache_duration: Option<String>,
    #[serde(default)]
    api_version: String,
    args: Option<Vec<String>>,
    env: Option<Vec<Variable>>,
    token_attributes: Option<TokenAttributes>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TokenAttributes {
    #[serde(default)]
    service_account_token_audience: String,
    #[serde(default)]
    cache_type: String,
    require_service_account: Option<bool>,
    #[serde(default)]
    required_service_account_annotation_keys: Vec<String>,
    #[serde(default)]
    optional_service_account_annotation_keys: Vec<String>,
}

/// The programs that files name, which lie in a folder.
///
/// # Errors
/// What is wrong with a file.
pub fn read(files: &[Value], folder: &Path) -> Result<Vec<Provider>, String> {
    let (mut all, mut names) = (Vec::new(), BTreeSet::new());
    for file in files {
        let file: File = serde_json::from_value(file.clone()).map_err(|e| e.to_string())?;
        if file.kind != "CredentialProviderConfig" || !FILES.contains(&file.api_version.as_str()) {
            let (version, kind) = (&file.api_version, &file.kind);
            return Err(format!(
                "it is a {kind} of {version}, not a CredentialProviderConfig"
            ));
        }
        for entry in file.providers {
            let name = entry.name.clone();
            let is_file = !name.is_empty() && name != "." && name != "..";
            if !is_file || name.contains(['/', ' ']) {
                return Err(format!(
                    "providers.name: {name:?} is not the name of a program"
                ));
            }
            if !names.insert(name.clone()) {
                return Err(format!("providers.name: {name:?} is there twice"));
            }
            all.push(provider(entry, folder).map_err(|why| format!("provider {name:?}: {why}"))?);
        }
    }
    if all.is_empty() {
        return Err("providers: at least one is required".into());
    }
    Ok(all)
}

fn provider(entry: Entry, folder: &Path) -> Result<Provider, String> {
    let version = entry.api_version;
    if !VERSIONS.contains(&version.as_str()) {
        let known = VERSIONS.join(", ");
        return Err(format!("apiVersion {version:?} is not supported: {known}"));
    }
    if entry.match_images.is_empty() {
        return Err("matchImages: at least one is required".into());
    }
    let lasts = entry.default_cache_duration;
    let lasts = lasts.ok_or("defaultCacheDuration is required")?;
    let tokens = entry.token_attributes.map(|t| tokens(t, &version));
    let env = entry.env.into_iter().flatten();
    Ok(Provider {
        program: folder.join(&entry.name),
        name: entry.name,
        images: entry.match_images,
        lasts: duration(&lasts)
            .ok_or(format!("defaultCacheDuration: {lasts:?} is not a duration"))?,
        args: entry.args.unwrap_or_default(),
        env: env.map(|v| (v.name, v.value)).collect(),
        tokens: tokens.transpose()?,
        version,
    })
}

fn tokens(given: TokenAttributes, version: &str) -> Result<TokenRules, String> {
    let wrong = |why: &str| Err(format!("tokenAttributes{why}"));
    if Some(&version) != VERSIONS.first() {
        return wrong(": only v1 of what programs are asked has tokens");
    }
    if given.service_account_token_audience.is_empty() {
        return wrong(".serviceAccountTokenAudience is required");
    }
    let Some(required) = given.require_service_account else {
        return wrong(".requireServiceAccount is required");
    };
    let each = match given.cache_type.as_str() {
        "Token" => true,
        "ServiceAccount" => false,
        _ => return wrong(".cacheType: it is \"ServiceAccount\" or \"Token\""),
    };
    let (needs, takes) = (
        given.required_service_account_annotation_keys,
        given.optional_service_account_annotation_keys,
    );
    if !required && !needs.is_empty() {
        return wrong(
            ".requiredServiceAccountAnnotationKeys: requireServiceAccount cannot be false with them",
        );
    }
    if let Some(both) = needs.iter().find(|key| takes.contains(key)) {
        return wrong(&format!(": {both:?} cannot be both required and optional"));
    }
    Ok(TokenRules {
        audience: given.service_account_token_audience,
        each,
        required,
        needs,
        takes,
    })
}

fn duration(text: &str) -> Option<Duration> {
    let parsed: jiff::SignedDuration = text.parse().ok()?;
    parsed.try_into().ok()
}

/// For whom credentials are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Which of that name.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What the program hears of it.
    pub annotations: BTreeMap<String, String>,
    /// Its token.
    pub token: String,
}

impl TokenRules {
    /// What a program hears of a service account; none: it is not asked, since the account lacks an
    /// annotation by which it would want to be.
    #[must_use]
    pub fn annotations_of(&self, account: &ServiceAccount) -> Option<BTreeMap<String, String>> {
        let has = |key: &String| {
            let all = account.metadata.annotations.as_ref()?;
            Some((key.clone(), all.get(key)?.clone()))
        };
        let needs: Option<Vec<_>> = self.needs.iter().map(has).collect();
        let takes = self.takes.iter().filter_map(has);
        Some(needs?.into_iter().chain(takes).collect())
    }

    /// For whom answers are kept: who else is the same may have them.
    fn scope(&self, account: &Account) -> String {
        let Account {
            uid,
            namespace,
            name,
            annotations,
            token,
        } = account;
        let token = self.each.then(|| hash(token));
        json!([namespace, name, uid, annotations, token]).to_string()
    }
}

fn hash(text: &str) -> String {
    let sum = Sha256::digest(text.as_bytes());
    sum.iter().map(|b| format!("{b:02x}")).collect()
}

/// What an answer is about, and for whom it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CacheKey {
    provider: String,
    /// An image, a registry, or everything.
    about: String,
    account: String,
}

/// What is meant by all images.
const EVERYTHING: &str = "<global>";

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Credentials, and the places that they are for.
    pub credentials: Vec<(String, Credential)>,
    /// What it is about.
    about: String,
    /// How long it holds; none: not beyond this pull.
    pub lasts: Option<Duration>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    api_version: String,
    kind: String,
    #[serde(default)]
    cache_key_type: String,
    cache_duration: Option<String>,
    auth: Option<BTreeMap<String, Login>>,
}

#[derive(Deserialize)]
struct Login {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

impl Provider {
    /// Whether it is asked about an image.
    #[must_use]
    pub fn is_for(&self, image: &str) -> bool {
        let one = |pattern: &String| {
            let all = vec![(pattern.clone(), ())];
            !keyring::matching(image, all).is_empty()
        };
        self.images.iter().any(one)
    }

    /// Under which keys an answer may be kept, the narrowest first.
    #[must_use]
    pub fn keys(&self, image: &str, account: Option<&Account>) -> [CacheKey; 3] {
        [image, registry(image), EVERYTHING].map(|about| self.key(about, account))
    }

    /// Under which key an answer is kept.
    #[must_use]
    pub fn key(&self, about: &str, account: Option<&Account>) -> CacheKey {
        let account = self.tokens.as_ref().zip(account);
        CacheKey {
            provider: self.name.clone(),
            about: about.to_owned(),
            account: account.map_or_else(String::new, |(rules, account)| rules.scope(account)),
        }
    }

    /// What it is asked about an image.
    #[must_use]
    pub fn question(&self, image: &str, account: Option<&Account>) -> Value {
        let mut asked = json!({
            "apiVersion": self.version,
            "kind": "CredentialProviderRequest",
            "image": image,
        });
        if let Some(account) = account {
            asked["serviceAccountToken"] = json!(account.token);
            if !account.annotations.is_empty() {
                asked["serviceAccountAnnotations"] = json!(account.annotations);
            }
        }
        asked
    }

    /// What it answered.
    ///
    /// # Errors
    /// It is not an answer; never with words of it, which may be secrets.
    pub fn answer(
        &self,
        said: &[u8],
        image: &str,
        account: Option<&Account>,
    ) -> Result<Answer, String> {
        let response: Response = serde_json::from_slice(said)
            .map_err(|_| "its answer is not a CredentialProviderResponse".to_owned())?;
        if response.kind != "CredentialProviderResponse" || response.api_version != self.version {
            return Err(format!(
                "its answer is not a CredentialProviderResponse of {}",
                self.version
            ));
        }
        let about = match response.cache_key_type.as_str() {
            "Image" => image,
            "Registry" => registry(image),
            "Global" => EVERYTHING,
            other => return Err(format!("cacheKeyType {other:?} is not valid")),
        };
        let logins = response.auth.unwrap_or_default();
        let each = self.tokens.as_ref().is_some_and(|t| t.each);
        let echoed = |a: &Account| logins.values().any(|l| l.password == a.token);
        if !each && account.is_some_and(echoed) {
            return Err(
                "it gave back the service account's token, which the cacheType \"Token\" alone allows"
                    .into(),
            );
        }
        let lasts = match response.cache_duration {
            None => self.lasts,
            Some(text) => duration(&text).ok_or("cacheDuration is not a duration")?,
        };
        let one = |(server, login): (String, Login)| {
            let place = keyring::place(&server);
            let (username, password) = (login.username, login.password);
            (
                place,
                Credential {
                    username,
                    password,
                    server,
                },
            )
        };
        Ok(Answer {
            credentials: logins.into_iter().map(one).collect(),
            about: about.to_owned(),
            lasts: Some(lasts).filter(|l| !l.is_zero()),
        })
    }
}

impl Answer {
    /// What it is about.
    #[must_use]
    pub fn about(&self) -> &str {
        &self.about
    }
}

/// The host of an image's name.
fn registry(image: &str) -> &str {
    image.split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(change: Value) -> Value {
        let mut provider = json!({ "name": "cloud", "matchImages": ["*.reg.io", "other.io/a"],
            "defaultCacheDuration": "12h", "apiVersion": VERSIONS[0],
            "args": ["get"], "env": [{ "name": "A", "value": "b" }] });
        for (field, value) in change.as_object().unwrap() {
            provider[field] = value.clone();
        }
        json!({ "apiVersion": FILES[0], "kind": "CredentialProviderConfig",
            "providers": [provider] })
    }

    fn one(change: Value) -> Result<Provider, String> {
        let mut all = read(&[file(change)], Path::new("/bin"))?;
        Ok(all.remove(0))
    }

    fn with_tokens(change: Value) -> Value {
        let mut tokens = json!({ "serviceAccountTokenAudience": "reg.io",
            "requireServiceAccount": true, "cacheType": "ServiceAccount",
            "requiredServiceAccountAnnotationKeys": ["cloud/role"],
            "optionalServiceAccountAnnotationKeys": ["cloud/region"] });
        for (field, value) in change.as_object().unwrap() {
            tokens[field] = value.clone();
        }
        json!({ "tokenAttributes": tokens })
    }

    #[test]
    fn files_name_programs() {
        let cloud = one(json!({})).unwrap();
        assert_eq!(cloud.program, Path::new("/bin/cloud"));
        assert_eq!(cloud.lasts, Duration::from_secs(12 * 3600));
        assert_eq!(cloud.env, [("A".to_owned(), "b".to_owned())]);
        let rules = one(with_tokens(json!({}))).unwrap().tokens.unwrap();
        assert!(rules.required && !rules.each);
        for (change, why) in [
            (json!({ "name": "a/b" }), "is not the name of a program"),
            (json!({ "name": ".." }), "is not the name of a program"),
            (json!({ "apiVersion": "v1" }), "is not supported"),
            (json!({ "matchImages": [] }), "matchImages"),
            (json!({ "defaultCacheDuration": null }), "is required"),
            (
                json!({ "defaultCacheDuration": "-1s" }),
                "is not a duration",
            ),
            (json!({ "colour": "red" }), "unknown field"),
            (with_tokens(json!({ "cacheType": "" })), "cacheType"),
            (
                with_tokens(json!({ "requireServiceAccount": false })),
                "cannot be false",
            ),
            (
                with_tokens(json!({ "optionalServiceAccountAnnotationKeys": ["cloud/role"] })),
                "both required and optional",
            ),
        ] {
            let found = one(change).unwrap_err();
            assert!(found.contains(why), "{found}");
        }
        let mut old = with_tokens(json!({}));
        old["apiVersion"] = json!(VERSIONS[1]);
        assert!(one(old).unwrap_err().contains("only v1"));
        let twice = read(&[file(json!({})), file(json!({}))], Path::new("/bin"));
        assert!(twice.unwrap_err().contains("twice"));
        let other = json!({ "apiVersion": "v1", "kind": "Pod" });
        assert!(read(&[other], Path::new("/")).is_err());
    }

    #[test]
    fn a_program_is_asked_about_its_images() {
        let cloud = one(json!({})).unwrap();
        for (image, want) in [
            ("x.reg.io/a:1", true),
            ("reg.io/a", false),
            ("other.io/a/b@sha256:1", true),
            ("other.io/b", false),
        ] {
            assert_eq!(cloud.is_for(image), want, "{image}");
        }
        let asked = cloud.question("x.reg.io/a", None);
        let want = json!({ "apiVersion": VERSIONS[0], "kind": "CredentialProviderRequest",
            "image": "x.reg.io/a" });
        assert_eq!(asked, want);
    }

    #[test]
    fn an_account_is_asked_for_if_it_wants_that() {
        let cloud = one(with_tokens(json!({}))).unwrap();
        let rules = cloud.tokens.as_ref().unwrap();
        let told = |annotations: Value| {
            let account = json!({ "metadata": { "annotations": annotations } });
            rules.annotations_of(&serde_json::from_value(account).unwrap())
        };
        assert_eq!(told(json!({ "cloud/region": "x" })), None);
        let both = told(json!({ "cloud/role": "r", "cloud/region": "x", "more": "y" }));
        let account = Account {
            name: "sa".into(),
            annotations: both.unwrap(),
            token: "t1".into(),
            ..Account::default()
        };
        let asked = cloud.question("i", Some(&account));
        let want = json!({ "cloud/role": "r", "cloud/region": "x" });
        assert_eq!(asked["serviceAccountAnnotations"], want);
        assert_eq!(asked["serviceAccountToken"], "t1");
        // Another token of the account is the same, unless answers are for a token.
        let mut later = account.clone();
        later.token = "t2".into();
        let same =
            |p: &Provider, other: &Account| p.key("i", Some(&account)) == p.key("i", Some(other));
        assert!(same(&cloud, &later));
        let by_token = one(with_tokens(json!({ "cacheType": "Token" }))).unwrap();
        assert!(!same(&by_token, &later));
        later.annotations.clear();
        assert!(!same(&cloud, &later));
    }

    #[test]
    fn answers_are_read_and_say_nothing_when_they_cannot_be() {
        let cloud = one(json!({})).unwrap();
        let answer = |change: Value| {
            let mut said = json!({ "apiVersion": VERSIONS[0], "kind": "CredentialProviderResponse",
                "cacheKeyType": "Registry", "auth": { "https://x.reg.io/v2/": {
                    "username": "u", "password": "secret" } } });
            for (field, value) in change.as_object().unwrap() {
                said[field] = value.clone();
            }
            cloud.answer(said.to_string().as_bytes(), "x.reg.io/a", None)
        };
        let read = answer(json!({})).unwrap();
        assert_eq!((read.about(), read.lasts), ("x.reg.io", Some(cloud.lasts)));
        let (place, login) = &read.credentials[0];
        assert_eq!(
            (place.as_str(), login.password.as_str()),
            ("x.reg.io", "secret")
        );
        let once = answer(json!({ "cacheDuration": "0s" })).unwrap();
        assert_eq!(once.lasts, None);
        let about = |kind: &str| answer(json!({ "cacheKeyType": kind })).map(|a| a.about);
        assert_eq!(about("Image").as_deref(), Ok("x.reg.io/a"));
        assert_eq!(about("Global").as_deref(), Ok(EVERYTHING));
        for wrong in [
            json!({ "cacheKeyType": "Pod" }),
            json!({ "apiVersion": VERSIONS[1] }),
            json!({ "kind": "Pod" }),
            json!({ "auth": "secret" }),
        ] {
            let why = answer(wrong).unwrap_err();
            assert!(!why.contains("secret"), "{why}");
        }
        let by_account = one(with_tokens(json!({}))).unwrap();
        let account = Account {
            token: "secret".into(),
            ..Account::default()
        };
        let said = json!({ "apiVersion": VERSIONS[0], "kind": "CredentialProviderResponse",
            "cacheKeyType": "Image", "auth": { "x": { "password": "secret" } } });
        let said = said.to_string();
        let echoed = by_account.answer(said.as_bytes(), "x/a", Some(&account));
        assert!(echoed.unwrap_err().contains("token"));
    }
}
