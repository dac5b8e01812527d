//! Conversions that are asked of somebody else. Verbs wait for them: a write before it is judged,
//! an answer before it is rendered. So rendering never waits, and a list asks once for all of its
//! objects. Pure conversions are not here: they happen where a form is made.

use std::sync::Arc;
use std::time::Duration;

use api::{FieldPath, Status};
use registry::{Conversion, Convert, Row};
use serde_json::Value;

use crate::cache::{Object, encode};
use crate::call::{Answer, Call, List};
use crate::object::meta_text;

/// How long a conversion may take, whoever does it; as upstream.
const WITHIN: Duration = Duration::from_secs(30);
/// All that a conversion may change of the metadata, as upstream.
const MAY_CHANGE: [&str; 2] = ["labels", "annotations"];
/// All of the metadata by which the object is known.
const MUST_STAY: [(&str, &str); 3] = [("name", "name"), ("namespace", "namespace"), ("uid", "UID")];

/// A kind whose conversion is asked of somebody else.
#[derive(Clone)]
pub struct AskedConversion {
    row: Arc<Row>,
    by: Arc<dyn Convert>,
}

impl AskedConversion {
    /// `None` for kinds whose conversion is pure.
    pub fn of(row: &Arc<Row>) -> Option<Self> {
        match &row.conversion {
            Conversion::Pure => None,
            Conversion::Asked(by) => Some(Self {
                row: row.clone(),
                by: by.clone(),
            }),
        }
    }

    /// The objects in a version (`group/version`), in the same order; those that are stored in it
    /// are the same, and all others are asked for at once.
    pub async fn objects(
        &self,
        mut objects: Vec<Arc<Object>>,
        api_version: &str,
    ) -> Result<Vec<Arc<Object>>, Status> {
        let mut others = Vec::new();
        let mut values = Vec::new();
        for (nth, object) in objects.iter().enumerate() {
            let value = object.to_value();
            if version_of(&value) != api_version {
                others.push(nth);
                values.push(value);
            }
        }
        if values.is_empty() {
            return Ok(objects);
        }
        let values = self.values(values, api_version).await?;
        for (nth, value) in others.into_iter().zip(values) {
            let Some(place) = objects.get_mut(nth) else {
                continue;
            };
            let made = Object::parse(&self.row, &place.key, encode(&value), place.revision);
            *place = Arc::new(made.map_err(|e| plain(e.to_string()))?);
        }
        Ok(objects)
    }

    /// One object; see [`AskedConversion::objects`].
    pub async fn object(
        &self,
        object: &Arc<Object>,
        api_version: &str,
    ) -> Result<Arc<Object>, Status> {
        let made = self.objects(vec![object.clone()], api_version).await?;
        Ok(made.into_iter().next().unwrap_or_else(|| object.clone()))
    }

    async fn values(&self, values: Vec<Value>, api_version: &str) -> Result<Vec<Value>, Status> {
        let what = values.first().map(kind_of).unwrap_or_default();
        let failed = |why: &str| plain(format!("conversion webhook for {what} failed: {why}"));
        let asked = self.by.convert(values.clone(), api_version);
        let answer = tokio::time::timeout(WITHIN, asked).await;
        let answer = answer.map_err(|_| failed("context deadline exceeded"))?;
        let mut made = answer.map_err(|why| failed(&why))?;
        if made.len() != values.len() {
            let (want, have) = (values.len(), made.len());
            return Err(plain(format!(
                "conversion webhook for {what} returned {have} objects, expected {want}"
            )));
        }
        let several = values.len() > 1;
        for (i, (new, old)) in made.iter_mut().zip(&values).enumerate() {
            let place = match several {
                true => format!("invalid converted object at index {i}"),
                false => "invalid object".to_owned(),
            };
            accept(new, old, api_version).map_err(|why| {
                plain(format!(
                    "conversion webhook for {what} returned {place}: {why}"
                ))
            })?;
            self.row.strategy.converted(new);
        }
        Ok(made)
    }
}

/// Upstream's errors of conversion have no reason.
fn plain(message: String) -> Status {
    Status {
        code: 500,
        status: "Failure".into(),
        message,
        ..Status::default()
    }
}

/// `group/version, Kind=kind`, as messages name it.
fn kind_of(object: &Value) -> String {
    let kind = object
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default();
    format!("{}, Kind={kind}", version_of(object))
}

fn version_of(value: &Value) -> &str {
    let version = value.get("apiVersion").and_then(Value::as_str);
    version.unwrap_or_default()
}

/// Checks one converted object, and gives it back the metadata that no conversion may change.
pub fn accept(new: &mut Value, old: &Value, api_version: &str) -> Result<(), String> {
    if version_of(new) != api_version {
        let have = version_of(new);
        return Err(format!(
            "invalid groupVersion (expected {api_version}, received {have})"
        ));
    }
    let kind = |o: &Value| {
        o.get("kind")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (have, want) = (kind(new), kind(old));
    if have != want {
        return Err(format!("invalid kind (expected {want}, received {have})"));
    }
    let Some(given) = new.get("metadata") else {
        return Err("missing metadata in converted object".into());
    };
    if !given.is_object() {
        return Err("invalid metadata of another type in converted object".into());
    }
    for (field, name) in MUST_STAY {
        let (have, want) = (meta_text(new, field), meta_text(old, field));
        if have != want {
            return Err(format!("must have the same {name}: {want} != {have}"));
        }
    }
    let mut meta = crate::object::meta(old).clone();
    for field in MAY_CHANGE {
        match crate::object::meta(new).get(field) {
            None | Some(Value::Null) => meta.remove(field),
            Some(changed) => {
                check_texts(field, changed, meta.get(field))?;
                meta.insert(field.into(), changed.clone())
            }
        };
    }
    *crate::object::meta_mut(new) = meta;
    Ok(())
}

/// Labels or annotations that a conversion gave.
fn check_texts(field: &str, given: &Value, before: Option<&Value>) -> Result<(), String> {
    let Some(map) = given.as_object() else {
        return Err(format!(
            "invalid metadata.{field} of another type in converted object"
        ));
    };
    if let Some((key, _)) = map.iter().find(|(_, v)| !v.is_string()) {
        return Err(format!(
            "metadata.{field}[{key}] must be a string in converted object"
        ));
    }
    if before == Some(given) {
        return Ok(());
    }
    let (mut errors, path) = (Vec::new(), FieldPath::new("metadata").child(field));
    match field {
        "labels" => registry::check::labels(&mut errors, &path, given),
        _ => {
            for key in map.keys() {
                registry::check::qualified_name(&mut errors, &path, &key.to_lowercase());
            }
        }
    }
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    match texts.is_empty() {
        true => Ok(()),
        false => Err(texts.join(", ")),
    }
}

/// A value of a row in another version (group and version), whoever must be asked for that.
pub async fn value(
    row: &Arc<Row>,
    mut value: Value,
    (group, version): (&str, &str),
) -> Result<Value, Status> {
    let Some(asked) = AskedConversion::of(row) else {
        row.strategy.convert(&mut value, version, group);
        return Ok(value);
    };
    let api_version = api::GroupVersion::new(group, version).to_string();
    let made = asked.values(vec![value], &api_version).await?;
    Ok(made.into_iter().next().unwrap_or_default())
}

/// A value that came in the version of the request, in the storage version with defaults, where
/// that is not done yet.
pub async fn to_storage(call: &Call, value: Value) -> Result<Value, Status> {
    let Some(asked) = AskedConversion::of(&call.row) else {
        return Ok(value);
    };
    let want = call.row.storage_api_version();
    if version_of(&value) == want {
        return Ok(value);
    }
    let mut value = value;
    // Defaults are those of the version in which it was written.
    call.row.strategy.default(&mut value);
    let made = asked.values(vec![value], &want).await?;
    let mut value = made.into_iter().next().unwrap_or_default();
    call.row.strategy.default(&mut value);
    Ok(value)
}

/// A stored object as a verb compares with it (in the storage version), and as the client knows
/// it (in the version of the request).
pub async fn both(call: &Call, object: &Arc<Object>) -> Result<(Arc<Object>, Arc<Object>), Status> {
    let Some(asked) = AskedConversion::of(&call.row) else {
        return Ok((object.clone(), object.clone()));
    };
    let stored = asked
        .object(object, &call.row.storage_api_version())
        .await?;
    let shown = asked
        .object(object, &call.group_version().to_string())
        .await?;
    Ok((stored, shown))
}

/// An answer whose objects are in the version of the request, where that takes asking: tables show
/// its columns, and labels may differ.
pub async fn answer(call: &Call, answer: Answer) -> Result<Answer, Status> {
    let Some(asked) = AskedConversion::of(&call.row) else {
        return Ok(answer);
    };
    let version = call.group_version().to_string();
    Ok(match answer {
        Answer::Object { code, object } => Answer::Object {
            code,
            object: asked.object(&object, &version).await?,
        },
        Answer::List(list) => Answer::List(List {
            objects: asked.objects(list.objects, &version).await?,
            ..list
        }),
        other @ (Answer::Value { .. } | Answer::Status(_) | Answer::Response(_)) => other,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_conversion_changes_labels_and_annotations_of_the_metadata_alone() {
        let old = json!({
            "apiVersion": "x.io/v1", "kind": "A",
            "metadata": { "name": "a", "uid": "1", "labels": { "a": "b" }, "generation": 4 },
        });
        let made = |meta: Value| json!({ "apiVersion": "x.io/v2", "kind": "A", "metadata": meta });
        let mut new = made(json!({
            "name": "a", "uid": "1", "annotations": { "c": "d" }, "generation": 7,
        }));
        assert_eq!(accept(&mut new, &old, "x.io/v2"), Ok(()));
        assert_eq!(
            new["metadata"],
            json!({ "name": "a", "uid": "1", "annotations": { "c": "d" }, "generation": 4 })
        );
        let mut other = made(json!({ "name": "b", "uid": "1" }));
        assert!(accept(&mut other, &old, "x.io/v2").is_err());
        assert!(accept(&mut old.clone(), &old, "x.io/v2").is_err());
    }
}
