//! Claims of devices, classes, slices and taints of them: defaults, the shapes of the older
//! versions, and what is wrong with them, in upstream's words and at its field paths.

mod checks;
mod pools;
#[cfg(test)]
mod tests;

use api::{FieldError, FieldPath};
use checks::classes::device_class;
use checks::taint_rules::taint_rule;
use checks::{claims, slices, status};
pub use pools::PoolStatusRequest;
use serde_json::{Map, Value};

use crate::check::{Errors, at, deep, fill, fill_zero, immutable, items_mut, set, text};
use crate::status_writes::{METADATA, keep_other_half, no_status};
use crate::strategies::warnings;
use crate::strategy::{Context, Read, Strategy};

/// The label of namespaces in which claims may ask for access as an administrator.
const ADMIN_LABEL: &str = "resource.kubernetes.io/admin-access";
const NAMESPACE: &str = "namespace of the claim";

/// The strategy of claims of devices and of their templates.
pub struct DeviceClaim {
    /// Where the specification of the claim stands.
    pub spec: &'static str,
}

impl Strategy for DeviceClaim {
    fn status_leaves(&self) -> &'static [&'static str] {
        METADATA
    }
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        no_status(obj);
    }
    fn default(&self, obj: &mut Value) {
        let Some(devices) = obj
            .pointer_mut(self.spec)
            .and_then(|s| s.get_mut("devices"))
        else {
            return;
        };
        for r in items_mut(devices, "requests") {
            if let Some(exact) = r.get_mut("exactly").filter(|e| e.is_object()) {
                count_defaults(exact);
            }
            for s in items_mut(r, "firstAvailable") {
                count_defaults(s);
            }
        }
    }
    fn convert(&self, obj: &mut Value, to_version: &str, group: &str) {
        let requests = obj
            .pointer_mut(self.spec)
            .and_then(|s| s.get_mut("devices"));
        if let Some(devices) = requests {
            for r in items_mut(devices, "requests") {
                convert_request(r, to_version == "v1beta1");
            }
        }
        set(obj, "apiVersion", format!("{group}/{to_version}"));
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value, cx: &Context<'_>) {
        keep_other_half(obj, old, cx.subresource);
        if cx.subresource == "status" {
            status::drop_freed(obj, old);
        }
    }
    /// Who may ask for access as an administrator is said by the namespace.
    fn reads(&self, obj: &Value, old: Option<&Value>) -> Vec<Read> {
        let devices = deep(obj, &format!("{}/devices", self.spec));
        let asks = old.is_none() && claims::admin_access(devices).is_some();
        let gets = status::admin_access(at(obj, "status")).is_some();
        if !asks && !gets {
            return Vec::new();
        }
        vec![Read {
            label: NAMESPACE.to_owned(),
            group: String::new(),
            resource: "namespaces".to_owned(),
            namespace: String::new(),
            name: text(at(obj, "metadata"), "namespace").to_owned(),
        }]
    }
    fn validate(&self, obj: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, spec) = (Errors::new(), deep(obj, self.spec));
        let path = self.path();
        if let Some(i) = claims::admin_access(at(spec, "devices")) {
            // Of a template upstream names the same path.
            let path = FieldPath::new("spec").child("devices").child("requests");
            let path = path.index(i);
            admin_access(&mut errs, &path.child("adminAccess"), cx);
        }
        claims::claim_spec(&mut errs, &path, spec);
        errs
    }
    /// The specification never changes, so it is not looked at again.
    fn validates_whole_update(&self) -> bool {
        true
    }
    fn validate_update(&self, obj: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if cx.subresource != "status" {
            let mut errs = Errors::new();
            immutable(&mut errs, &FieldPath::root(), obj, old, "spec");
            return errs;
        }
        let mut errs = Errors::new();
        let granted = status::admin_access(at(old, "status")).is_some();
        if let Some(i) = status::admin_access(at(obj, "status")).filter(|_| !granted) {
            let path = ["allocation", "devices", "results"]
                .iter()
                .fold(FieldPath::new("status"), |path, part| path.child(part));
            admin_access(&mut errs, &path.index(i).child("adminAccess"), cx);
        }
        errs.extend(status::claim_status(obj, old));
        errs
    }
}

impl DeviceClaim {
    fn path(&self) -> FieldPath {
        let parts = self.spec.split('/').filter(|part| !part.is_empty());
        parts.fold(FieldPath::root(), |path, part| path.child(part))
    }
}

fn admin_access(errs: &mut Errors, path: &FieldPath, cx: &Context<'_>) {
    let namespace = cx.read.get(NAMESPACE);
    let labels = namespace.map(|n| at(at(n, "metadata"), "labels"));
    if labels.map(|l| text(l, ADMIN_LABEL)) != Some("true") {
        let why = format!(
            "admin access to devices requires the `{ADMIN_LABEL}: true` label on the containing \
             namespace"
        );
        errs.push(FieldError::forbidden(path, &why));
    }
}

fn count_defaults(request: &mut Value) {
    fill_zero(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" {
        fill_zero(request, "count", 1);
    }
}

/// What v1beta1 has in the request itself and later versions in its member `exactly`.
const EXACT: &[&str] = &[
    "deviceClassName",
    "selectors",
    "allocationMode",
    "count",
    "adminAccess",
    "tolerations",
    "capacity",
];

fn convert_request(request: &mut Value, flat: bool) {
    let Some(outer) = request.as_object_mut() else {
        return;
    };
    if flat {
        if let Some(Value::Object(exact)) = outer.remove("exactly") {
            outer.extend(exact);
        }
        return;
    }
    let moved: Map<String, Value> = EXACT
        .iter()
        .filter_map(|f| outer.remove_entry(*f))
        .collect();
    if !moved.is_empty() {
        outer.insert("exactly".to_owned(), moved.into());
    }
}

/// The strategy of classes of devices.
pub struct DeviceClass;

impl Strategy for DeviceClass {
    fn has_generation(&self) -> bool {
        true
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        device_class(obj, None)
    }
    fn validates_whole_update(&self) -> bool {
        true
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        device_class(obj, Some(old))
    }
}

/// The strategy of slices of devices.
pub struct ResourceSlice;

impl Strategy for ResourceSlice {
    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        warnings::slice_driver(obj)
    }
    fn prepare_create(&self, obj: &mut Value, cx: &Context<'_>) {
        taints_added(obj, cx);
    }
    fn prepare_update(&self, obj: &mut Value, _old: &Value, cx: &Context<'_>) {
        taints_added(obj, cx);
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        slices::slice_spec(&mut errs, &FieldPath::new("spec"), at(obj, "spec"), None);
        errs
    }
    fn validates_whole_update(&self) -> bool {
        true
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path) = (Errors::new(), FieldPath::new("spec"));
        slices::slice_spec(&mut errs, &path, at(obj, "spec"), Some(at(old, "spec")));
        errs
    }
    fn default(&self, obj: &mut Value) {
        let Some(spec) = obj.get_mut("spec") else {
            return;
        };
        for device in items_mut(spec, "devices") {
            let mappings = device.get_mut("nodeAllocatableResourceMappings");
            let mappings = mappings.and_then(Value::as_object_mut);
            for (_, mapping) in mappings.into_iter().flatten() {
                fill(mapping, "allocationMultiplier", "1");
            }
        }
    }
    /// v1beta1 has all but the name of a device in its member `basic`.
    fn convert(&self, obj: &mut Value, to_version: &str, group: &str) {
        if let Some(spec) = obj.get_mut("spec") {
            for d in items_mut(spec, "devices") {
                convert_device(d, to_version == "v1beta1");
            }
        }
        set(obj, "apiVersion", format!("{group}/{to_version}"));
    }
    fn has_generation(&self) -> bool {
        true
    }
}

fn convert_device(device: &mut Value, nested: bool) {
    let Some(outer) = device.as_object_mut() else {
        return;
    };
    if !nested {
        if let Some(Value::Object(basic)) = outer.remove("basic") {
            outer.extend(basic);
        }
        return;
    }
    if outer.contains_key("basic") {
        return;
    }
    let name = outer.remove_entry("name");
    let basic = std::mem::take(outer);
    outer.extend(name);
    if !basic.is_empty() {
        outer.insert("basic".to_owned(), basic.into());
    }
}

/// Says of taints without a time that they came now.
fn taints_added(obj: &mut Value, cx: &Context<'_>) {
    if let Some(spec) = obj.get_mut("spec") {
        for device in items_mut(spec, "devices") {
            for taint in items_mut(device, "taints") {
                added(taint, cx);
            }
        }
    }
}

fn added(taint: &mut Value, cx: &Context<'_>) {
    if let Ok(now) = jiff::Timestamp::from_second(cx.now) {
        fill(taint, "timeAdded", now.to_string());
    }
}

/// The strategy of taints of devices that are set from outside of their driver.
pub struct DeviceTaintRule;

impl Strategy for DeviceTaintRule {
    fn status_leaves(&self) -> &'static [&'static str] {
        METADATA
    }
    fn has_generation(&self) -> bool {
        true
    }
    fn prepare_create(&self, obj: &mut Value, cx: &Context<'_>) {
        no_status(obj);
        if let Some(taint) = obj.pointer_mut("/spec/taint") {
            added(taint, cx);
        }
    }
    /// A taint whose effect changes begins again, unless its time was changed as well.
    fn prepare_update(&self, obj: &mut Value, old: &Value, cx: &Context<'_>) {
        keep_other_half(obj, old, cx.subresource);
        let before = deep(old, "/spec/taint");
        let Some(taint) = obj.pointer_mut("/spec/taint").filter(|t| t.is_object()) else {
            return;
        };
        let changed = text(taint, "effect") != text(before, "effect");
        if changed && at(taint, "timeAdded") == at(before, "timeAdded") {
            crate::check::unset(taint, "timeAdded");
        }
        added(taint, cx);
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        taint_rule(obj, None)
    }
    fn validates_whole_update(&self) -> bool {
        true
    }
    fn validate_update(&self, obj: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if cx.subresource == "status" {
            let mut errs = Errors::new();
            let status = at(obj, "status");
            checks::conditions(&mut errs, &FieldPath::new("status"), status, 8);
            return errs;
        }
        taint_rule(obj, Some(old))
    }
}
