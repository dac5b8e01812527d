//! What an expression of admission may name: the variables, in places that never change.

use std::sync::{Arc, LazyLock};

use cel::{Decl, DeclKind, Env, ListKind, Type};

/// Places of the variables.
pub(crate) const OBJECT: usize = 0;
pub(crate) const OLD_OBJECT: usize = 1;
pub(crate) const NAMESPACE: usize = 2;
pub(crate) const REQUEST: usize = 3;
pub(crate) const PARAMS: usize = 4;
pub(crate) const AUTHORIZER: usize = 5;
pub(crate) const REQUEST_RESOURCE: usize = 6;
pub(crate) const VARIABLES: usize = 7;
pub(crate) const COUNT: usize = 8;

/// Which of the variables there are that not every expression has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Declared {
    pub params: bool,
    pub authorizer: bool,
    /// `Object{…}` and `JSONPatch{…}` may be made.
    pub patches: bool,
}

/// Types where they are known; without them, everything is allowed that may turn out to fit.
#[derive(Clone, Default)]
pub struct Types {
    /// Of `object` and `oldObject`.
    pub object: Option<Arc<Decl>>,
    pub params: Option<Arc<Decl>>,
}

/// The environment of an expression; `variables` are names and types of a policy's own, none
/// where they may not be named.
pub(crate) fn env(
    declared: Declared,
    types: &Types,
    variables: Option<&[(Arc<str>, Type)]>,
) -> Env {
    let object = types.object.clone().unwrap_or_else(Decl::any);
    let mut env = Env::new()
        .variable("object", object.clone())
        .variable("oldObject", object)
        .variable("namespaceObject", NAMESPACE_TYPE.clone())
        .variable("request", REQUEST_TYPE.clone());
    env = if declared.params {
        env.variable("params", types.params.clone().unwrap_or_else(Decl::any))
    } else {
        env.absent()
    };
    env = if declared.authorizer {
        env.variable("authorizer", AUTHORIZER_TYPE.clone())
            .variable("authorizer.requestResource", CHECK_TYPE.clone())
    } else {
        env.absent().absent()
    };
    if let Some(variables) = variables {
        env = env.composed("variables", variables);
    }
    if declared.patches {
        env = env.with_patches();
    }
    env
}

/// The declaration of values that `variables` and messages read.
pub(crate) fn any() -> &'static Decl {
    static ANY: LazyLock<Arc<Decl>> = LazyLock::new(Decl::any);
    &ANY
}

pub(crate) fn request() -> &'static Decl {
    &REQUEST_TYPE
}

pub(crate) fn namespace() -> &'static Decl {
    &NAMESPACE_TYPE
}

static AUTHORIZER_TYPE: LazyLock<Arc<Decl>> =
    LazyLock::new(|| Decl::of(Type::opaque("kubernetes.authorization.Authorizer")));
static CHECK_TYPE: LazyLock<Arc<Decl>> =
    LazyLock::new(|| Decl::of(Type::opaque("kubernetes.authorization.ResourceCheck")));

fn scalar(name: &str, kind: DeclKind) -> Arc<Decl> {
    Arc::new(Decl::new(name, kind, cel::decl::NO_MAX, 1))
}

fn text() -> Arc<Decl> {
    scalar("string", DeclKind::String)
}

fn list(item: Arc<Decl>) -> Arc<Decl> {
    scalar("list", DeclKind::List(item, ListKind::Atomic))
}

fn map(value: Arc<Decl>) -> Arc<Decl> {
    scalar("map", DeclKind::Map(value))
}

fn object(name: &str, fields: &[(&str, Arc<Decl>)]) -> Arc<Decl> {
    let fields = fields.iter().map(|(n, d)| ((*n).to_owned(), d.clone()));
    Arc::new(Decl::object(&format!("kubernetes.{name}"), fields))
}

/// As upstream declares it: an AdmissionRequest without its uid and objects.
static REQUEST_TYPE: LazyLock<Arc<Decl>> = LazyLock::new(|| {
    let group = |name: &str, last: &str| {
        object(
            name,
            &[("group", text()), ("version", text()), (last, text())],
        )
    };
    let (kind, resource) = (
        group("GroupVersionKind", "kind"),
        group("GroupVersionResource", "resource"),
    );
    let user = object(
        "UserInfo",
        &[
            ("username", text()),
            ("uid", text()),
            ("groups", list(text())),
            ("extra", map(list(text()))),
        ],
    );
    object(
        "AdmissionRequest",
        &[
            ("kind", kind.clone()),
            ("resource", resource.clone()),
            ("subResource", text()),
            ("requestKind", kind),
            ("requestResource", resource),
            ("requestSubResource", text()),
            ("name", text()),
            ("namespace", text()),
            ("operation", text()),
            ("userInfo", user),
            ("dryRun", scalar("bool", DeclKind::Bool)),
            ("options", Decl::any()),
        ],
    )
});

/// As upstream declares it; `UID` is its spelling.
static NAMESPACE_TYPE: LazyLock<Arc<Decl>> = LazyLock::new(|| {
    let time = || scalar("timestamp", DeclKind::Timestamp);
    let int = || scalar("int", DeclKind::Int);
    let condition = object(
        "NamespaceCondition",
        &[
            ("status", text()),
            ("type", text()),
            ("lastTransitionTime", time()),
            ("message", text()),
            ("reason", text()),
        ],
    );
    let metadata = object(
        "NamespaceMetadata",
        &[
            ("name", text()),
            ("generateName", text()),
            ("namespace", text()),
            ("labels", map(text())),
            ("annotations", map(text())),
            ("UID", text()),
            ("creationTimestamp", time()),
            ("deletionGracePeriodSeconds", int()),
            ("deletionTimestamp", time()),
            ("generation", int()),
            ("resourceVersion", text()),
            ("finalizers", list(text())),
        ],
    );
    let spec = object("NamespaceSpec", &[("finalizers", list(text()))]);
    let status = object(
        "NamespaceStatus",
        &[("conditions", list(condition)), ("phase", text())],
    );
    object(
        "Namespace",
        &[("metadata", metadata), ("spec", spec), ("status", status)],
    )
});
