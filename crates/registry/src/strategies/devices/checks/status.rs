//! What may be written into a claim's status: by the scheduler what was allocated and for whom, by
//! drivers what they say of their devices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::{FieldError, FieldPath};
use serde_json::{Value, json};

use super::claims::{Requests, request_reference, request_references};
use super::{
    MOST_CONFIGS, MOST_REQUESTS, binding_conditions, conditions, configuration, device_name,
    driver, each, each_once, pool, raw_object, share_id,
};
use crate::check::{
    Errors, at, flag, has, immutable, is_empty, items, required_text, required_word, text,
};
use crate::strategies::scheduling::node_selector;

const MOST_CONSUMERS: usize = 256;
const MOST_CONDITIONS: usize = 8;
const LONGEST_DATA: usize = 10 * 1024;
const MOST_ADDRESSES: usize = 16;
const LONGEST_INTERFACE: usize = 256;
const LONGEST_HARDWARE: usize = 128;

/// Names a device, and the share of it, as an error shows it.
fn device_id(device: &Value) -> String {
    let parts = ["driver", "pool", "device"].map(|f| text(device, f));
    match text(device, "shareID") {
        "" => parts.join("/"),
        share => format!("{}/{share}", parts.join("/")),
    }
}

fn results(status: &Value) -> &[Value] {
    items(at(at(status, "allocation"), "devices"), "results")
}

fn allocated(status: &Value) -> BTreeSet<String> {
    results(status).iter().map(device_id).collect()
}

/// A change of the status.
pub fn claim_status(claim: &Value, old: &Value) -> Errors {
    let (mut errs, path) = (Errors::new(), FieldPath::new("status"));
    let (new, before) = (at(claim, "status"), at(old, "status"));
    let requests = Requests::of(at(at(claim, "spec"), "devices"));
    let consumers = items(new, "reservedFor");
    each_once(
        &mut errs,
        &path.child("reservedFor"),
        consumers,
        MOST_CONSUMERS,
        |c| text(c, "uid").into(),
        |errs, path, consumer| {
            for field in ["resource", "name", "uid"] {
                required_text(errs, path, consumer, field);
            }
        },
    );
    let devices = allocated(new);
    each_once(
        &mut errs,
        &path.child("devices"),
        items(new, "devices"),
        usize::MAX,
        |d| device_id(d).into(),
        |errs, path, device| device_status(errs, path, device, &devices),
    );
    let allocation = at(new, "allocation");
    if !consumers.is_empty() {
        let path = path.child("reservedFor");
        let known = items(before, "reservedFor");
        if allocation.is_null() {
            let why = "may not be specified when `allocated` is not set";
            errs.push(FieldError::forbidden(&path, why));
        } else if has(at(claim, "metadata"), "deletionTimestamp")
            && consumers.iter().any(|c| !known.contains(c))
        {
            let why = "new entries may not be added while `deallocationRequested` or \
                       `deletionTimestamp` are set";
            errs.push(FieldError::forbidden(&path, why));
        }
    }
    if allocation.is_null() {
        return errs;
    }
    if has(before, "allocation") {
        immutable(&mut errs, &path, new, before, "allocation");
    } else {
        allocation_result(&mut errs, &path.child("allocation"), allocation, &requests);
    }
    errs
}

fn allocation_result(
    errs: &mut Errors,
    path: &FieldPath,
    allocation: &Value,
    requests: &Requests<'_>,
) {
    let (devices, devices_path) = (at(allocation, "devices"), path.child("devices"));
    each(
        errs,
        &devices_path.child("results"),
        items(devices, "results"),
        MOST_REQUESTS,
        |errs, path, result| {
            let request = text(result, "request");
            request_reference(errs, &path.child("request"), request, requests);
            driver(errs, &path.child("driver"), text(result, "driver"));
            pool(errs, &path.child("pool"), text(result, "pool"));
            device_name(errs, path, result, "device");
            binding_conditions(errs, path, result);
            share_id(errs, path, result);
        },
    );
    each(
        errs,
        &devices_path.child("config"),
        items(devices, "config"),
        2 * MOST_CONFIGS,
        |errs, path, config| {
            let sources = ["FromClaim", "FromClass"];
            required_word(errs, path, config, "source", &sources);
            request_references(errs, path, config, requests);
            configuration(errs, path, config, false);
        },
    );
    if has(allocation, "nodeSelector") {
        let selector = at(allocation, "nodeSelector");
        node_selector(errs, &path.child("nodeSelector"), selector);
    }
}

fn device_status(
    errs: &mut Errors,
    path: &FieldPath,
    device: &Value,
    allocated: &BTreeSet<String>,
) {
    driver(errs, &path.child("driver"), text(device, "driver"));
    pool(errs, &path.child("pool"), text(device, "pool"));
    device_name(errs, path, device, "device");
    share_id(errs, path, device);
    let id = device_id(device);
    if !allocated.contains(&id) {
        // Upstream shows it without quotation marks.
        errs.push(FieldError {
            value: Some(id),
            ..FieldError::invalid(path, &json!(""), "must be an allocated device in the claim")
        });
    }
    conditions(errs, path, device, MOST_CONDITIONS);
    if !is_empty(at(device, "data")) {
        let data = at(device, "data");
        raw_object(errs, &path.child("data"), data, LONGEST_DATA);
    }
    network(errs, &path.child("networkData"), at(device, "networkData"));
}

fn network(errs: &mut Errors, path: &FieldPath, data: &Value) {
    for (field, most) in [
        ("interfaceName", LONGEST_INTERFACE),
        ("hardwareAddress", LONGEST_HARDWARE),
    ] {
        if text(data, field).len() > most {
            errs.push(FieldError::too_long(&path.child(field), most));
        }
    }
    each_once(
        errs,
        &path.child("ips"),
        items(data, "ips"),
        MOST_ADDRESSES,
        Value::clone,
        |errs, path, address| {
            let address = address.as_str().unwrap_or_default();
            let parsed = address.split_once('/').and_then(|(ip, bits)| {
                let (ip, bits): (IpAddr, u8) = (ip.parse().ok()?, bits.parse().ok()?);
                Some(bits <= if ip.is_ipv4() { 32 } else { 128 })
            });
            if parsed != Some(true) {
                let why = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or \
                           2001:db8::1/64)";
                errs.push(FieldError::invalid_str(path, address, why));
            }
        },
    );
}

/// What drivers said of devices that are not the claim's any more goes.
pub fn drop_freed(claim: &mut Value, old: &Value) {
    let mut freed = allocated(at(old, "status"));
    for id in allocated(at(claim, "status")) {
        freed.remove(&id);
    }
    let devices = claim.pointer_mut("/status/devices");
    if let Some(devices) = devices.and_then(Value::as_array_mut) {
        devices.retain(|d| !freed.contains(&device_id(d)));
    }
}

/// The first result that gives access as an administrator.
pub fn admin_access(status: &Value) -> Option<usize> {
    results(status).iter().position(|r| flag(r, "adminAccess"))
}
