//! Claims of devices and slices of them: defaults, and the shapes of the older versions.

use api::{FieldError, FieldPath};
use serde_json::{Map, Value};

use crate::check::{Errors, fill_zero, immutable, items_mut, set, text};
use crate::strategy::{Context, Strategy, no_status};

/// The strategy of claims of devices and of their templates.
pub struct DeviceClaim {
    /// Where the specification of the claim stands.
    pub spec: &'static str,
}

impl Strategy for DeviceClaim {
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
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        immutable(&mut errs, &FieldPath::root(), obj, old, "spec");
        errs
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

/// The strategy of slices of devices.
pub struct ResourceSlice;

impl Strategy for ResourceSlice {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn claims_in_all_versions() {
        let s = DeviceClaim { spec: "/spec" };
        let one = json!({"apiVersion": "resource.k8s.io/v1", "spec": {"devices": {"requests": [
            {"name": "r", "exactly": {"deviceClassName": "c", "count": 2}}]}}});
        let mut obj = one.clone();
        s.convert(&mut obj, "v1beta1", "resource.k8s.io");
        assert_eq!(
            obj.pointer("/spec/devices/requests/0"),
            Some(&json!({"name": "r", "deviceClassName": "c", "count": 2}))
        );
        s.convert(&mut obj, "v1", "resource.k8s.io");
        assert_eq!(obj, one);
    }

    #[test]
    fn slices_in_all_versions() {
        let one = json!({"apiVersion": "resource.k8s.io/v1", "spec": {"devices": [
            {"name": "d", "capacity": {"memory": {"value": "1Gi"}}}]}});
        let mut obj = one.clone();
        ResourceSlice.convert(&mut obj, "v1beta1", "resource.k8s.io");
        assert_eq!(
            obj.pointer("/spec/devices/0"),
            Some(&json!({"name": "d", "basic": {"capacity": {"memory": {"value": "1Gi"}}}}))
        );
        ResourceSlice.convert(&mut obj, "v1", "resource.k8s.io");
        assert_eq!(obj, one);
    }
}
