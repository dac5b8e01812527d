//! Create: a new object of any kind.

use std::sync::Arc;

use api::Status;
use bytes::Bytes;
use clock::Random;
use rand::RngExt;
use registry::meta::{validate_finalizer_names, validate_object_meta};
use serde_json::Value;

use super::admit::Admission;
use super::commit::{self, ATTEMPTS, Change, Tried, gave_up, step_back, written};
use super::convert;
use super::decode::{decode, match_namespace};
use super::{managed_fields, owners};
use crate::admission::Operation;
use crate::cache::{Object, encode_with};
use crate::call::{Answer, Call};
use crate::object::{meta_mut, meta_text, time_text};
use crate::{allocations, codec};

/// Letters of generated names: no vowels, so that no words appear; as upstream.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// A generated name has this many random letters …
const RANDOM: usize = 5;
/// … and this many in all at most, so that it fits a DNS label.
const GENERATED_MAX: usize = 63;

/// Creates an object from a request's body.
pub async fn create(call: &Call, body: &[u8]) -> Result<Answer, Status> {
    let dry_run = call.write_options()?;
    let object = decode(call, body)?;
    let again = || decode(call, body);
    let object = create_given(call, (object, &again), dry_run, None).await?;
    Ok(Answer::Object { code: 201, object })
}

/// Creates a decoded object (storage version, defaults set). `managed` are its managed fields where
/// they were recorded already, by an apply.
pub async fn create_value(
    call: &Call,
    object: Value,
    dry_run: bool,
    managed: Option<Bytes>,
) -> Result<Arc<Object>, Status> {
    let kept = object.clone();
    let again = || Ok(kept.clone());
    create_given(call, (object, &again), dry_run, managed).await
}

/// An object, and how it is had again: what is done to it leaves nothing for another try, and few
/// creations need one.
type RepeatableObject<'a> = (Value, &'a (dyn Fn() -> Result<Value, Status> + Sync));

async fn create_given(
    call: &Call,
    (object, again): RepeatableObject<'_>,
    dry_run: bool,
    managed: Option<Bytes>,
) -> Result<Arc<Object>, Status> {
    let object = placed(call, object).await?;
    if call.row.inert {
        call.warn(format!(
            "no controller of this cluster acts on {} objects yet",
            call.row.kind
        ));
    }
    let name = meta_text(&object, "name").to_owned();
    let prefix = meta_text(&object, "generateName").to_owned();
    let mut first = Some(object);
    for attempt_number in 0..ATTEMPTS {
        step_back(&call.state, attempt_number).await;
        let object = match first.take() {
            Some(object) => object,
            None => placed(call, again()?).await?,
        };
        match attempt(call, object, dry_run, managed.clone()).await? {
            Tried::Done(done) => return Ok(done),
            Tried::Raced(raced) if raced.current.is_some() && !name.is_empty() => {
                return Err(Status::already_exists(&call.resource(), &name));
            }
            Tried::Raced(_) => {}
        }
    }
    Err(gave_up(call, &prefix))
}

/// In the namespace of the request, and in the form in which it is stored.
async fn placed(call: &Call, mut object: Value) -> Result<Value, Status> {
    match_namespace(call, &mut object)?;
    convert::to_storage(call, object).await
}

fn generate(prefix: &str, mut random: Random) -> String {
    let mut name: String = prefix.chars().take(GENERATED_MAX - RANDOM).collect();
    for _ in 0..RANDOM {
        let letter = ALPHABET.get(random.random_range(0..ALPHABET.len()));
        name.push(letter.map_or('x', |b| char::from(*b)));
    }
    name
}

/// Takes out the metadata that only the server sets.
fn wipe(object: &mut Value) {
    let meta = meta_mut(object);
    for gone in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "generation",
    ] {
        meta.remove(gone);
    }
}

/// Sets it, and the name where it is generated.
fn complete(call: &Call, object: &mut Value) {
    wipe(object);
    let now = time_text(call.state.now());
    let prefix = meta_text(object, "generateName").to_owned();
    let generated = meta_text(object, "name").is_empty() && !prefix.is_empty();
    let meta = meta_mut(object);
    meta.insert("uid".into(), call.state.random().uuid().into());
    meta.insert("creationTimestamp".into(), now.into());
    if call.row.strategy.has_generation() {
        meta.insert("generation".into(), 1.into());
    }
    if generated {
        let name = generate(&prefix, call.state.random());
        meta.insert("name".into(), name.into());
    }
}

/// One try.
async fn attempt(
    call: &Call,
    mut object: Value,
    dry_run: bool,
    managed: Option<Bytes>,
) -> Result<Tried<Arc<Object>>, Status> {
    let row = &*call.row;
    let asked = meta_text(&object, "name").to_owned();
    let mut admission = Admission::new(call, Operation::Create, "", &asked, dry_run);
    wipe(&mut object);
    if call.info.verb != "patch" {
        owners::once(call, &mut object, false);
    }
    // Before admission and the kind's own rules: what those set is nobody's.
    codec::settle(row, &mut object);
    admission.managed = managed.unwrap_or_else(|| {
        managed_fields::record(call, &mut object, &Value::Null, &Bytes::new(), "")
    });
    admission.mutate(Some(&mut object), None).await?;
    owners::once(call, &mut object, true);
    // Whoever changed the object may have named it, and may have moved it.
    match_namespace(call, &mut object)?;
    complete(call, &mut object);
    let chosen = meta_text(&object, "name").to_owned();
    let name = chosen.as_str();
    admission.named(name);
    // First: what a kind's own rules set follows from what is left.
    let features = &call.state.settings().features;
    registry::gated::drop_disabled(row, &mut object, None, features)
        .into_iter()
        .for_each(|w| call.warn(w));
    let (cx, reads) = admission.context(&object, None, "")?;
    row.strategy.prepare_create(&mut object, &cx);
    codec::settle(row, &mut object);
    let rule = |n: &str, generate| row.strategy.validate_name(n, generate);
    let mut errors = validate_object_meta(&object, row.namespaced, &rule);
    errors.extend(validate_finalizer_names(row, &object));
    errors.extend(row.strategy.validate(&object, &cx));
    call.check(name, &errors)?;
    registry::acted_on::warnings(row, &object, None, "")
        .into_iter()
        .for_each(|w| call.warn(w));
    admission.validate(Some(&mut object), None).await?;
    if !meta_text(&object, "resourceVersion").is_empty() {
        // As upstream's store, after admission, and in a plain error: a 500 without a reason.
        return Err(Status {
            code: 500,
            status: "Failure".into(),
            message: "resourceVersion should not be set on objects to be created".into(),
            ..Status::default()
        });
    }
    let claims = allocations::plan(call, Some(&mut object), None, name).await?;
    if claims.has_chosen {
        codec::settle(row, &mut object);
    }
    let claims = claims.with(admission.together());
    let key = call.key(name);
    let value = encode_with(&object, &admission.managed);
    let object = written(row, &key, &object, value, 0)?;
    if dry_run {
        // What cannot be read is in the way, too.
        let lost = call.cache()?.unreadable();
        if lost.iter().any(|lost| *lost.key == *key)
            || super::list::newest_object(call, &key).await?.is_some()
        {
            return Err(Status::already_exists(&call.resource(), name));
        }
        return Ok(Tried::Done(Arc::new(object)));
    }
    let change = Change {
        object,
        gone: false,
        seen: 0,
    };
    commit::object(call, change, reads, claims).await
}
