//! What claims ask for, read once for each pod that is tried.

use std::sync::Arc;

use k8s_openapi::api::resource::v1 as k8s;

use super::capacity::Amounts;
use super::selectors::Selector;
use super::slices::{Device, quantity};
use super::store::Devices;

/// A request, or one of the alternatives of a request.
#[derive(Debug)]
pub struct Request<'a> {
    /// `request` or `request/alternative`.
    pub name: String,
    /// The request without the alternative.
    pub base: &'a str,
    pub class: &'a Arc<k8s::DeviceClass>,
    /// None for all devices that it selects.
    pub count: Option<usize>,
    pub admin: bool,
    pub capacity: Amounts,
    pub tolerations: &'a [k8s::DeviceToleration],
    /// Each with where it stands, for errors.
    selectors: Vec<(String, Arc<Selector>)>,
}

impl Request<'_> {
    /// # Errors
    /// When a selector cannot be evaluated for this device.
    pub fn selects(&self, driver: &str, device: &Device) -> Result<bool, String> {
        for (place, selector) in &self.selectors {
            let matches = selector.matches(driver, device);
            if !matches.map_err(|e| format!("{place}: CEL runtime error: {e}"))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub fn tolerates(&self, device: &Device) -> bool {
        let keeps_off = |t: &&k8s::DeviceTaint| matches!(&*t.effect, "NoSchedule" | "NoExecute");
        let mut taints = device.taints.iter().filter(keeps_off);
        taints.all(|taint| self.tolerations.iter().any(|t| tolerates(t, taint)))
    }
}

/// What the devices of some requests must have in common, or not.
#[derive(Debug)]
pub enum Constraint<'a> {
    Match {
        attribute: &'a str,
        requests: &'a [String],
    },
    Distinct {
        attribute: &'a str,
        requests: &'a [String],
    },
}

impl Constraint<'_> {
    pub fn attribute(&self) -> &str {
        match self {
            Self::Match { attribute, .. } | Self::Distinct { attribute, .. } => attribute,
        }
    }
    pub fn is_about(&self, request: &Request<'_>) -> bool {
        let (Self::Match { requests, .. } | Self::Distinct { requests, .. }) = self;
        requests.is_empty()
            || requests
                .iter()
                .any(|r| *r == request.name || r == request.base)
    }
}

/// A claim that needs devices.
#[derive(Debug)]
pub struct WantedClaim<'a> {
    pub key: String,
    pub claim: &'a Arc<k8s::ResourceClaim>,
    /// Of each request its alternatives, of which one is met.
    pub requests: Vec<Vec<Request<'a>>>,
    pub constraints: Vec<Constraint<'a>>,
}

/// What a request has in common with an alternative.
struct RequestFields<'a> {
    class: &'a str,
    mode: Option<&'a str>,
    count: Option<i64>,
    selectors: &'a [k8s::DeviceSelector],
    tolerations: &'a [k8s::DeviceToleration],
    capacity: Option<&'a k8s::CapacityRequirements>,
    admin: bool,
}

impl<'a> WantedClaim<'a> {
    /// # Errors
    /// Why no node could have it.
    pub fn read(
        key: &str,
        claim: &'a Arc<k8s::ResourceClaim>,
        devices: &'a Devices,
    ) -> Result<Self, String> {
        let wrong = |why: String| format!("claim {key}, {why}");
        let spec = claim.spec.devices.as_ref();
        let mut requests = Vec::new();
        for of in spec.iter().flat_map(|s| s.requests.iter().flatten()) {
            let mut alternatives = Vec::new();
            if let Some(exact) = &of.exactly {
                let asked = RequestFields {
                    class: &exact.device_class_name,
                    mode: exact.allocation_mode.as_deref(),
                    count: exact.count,
                    selectors: exact.selectors.as_deref().unwrap_or_default(),
                    tolerations: exact.tolerations.as_deref().unwrap_or_default(),
                    capacity: exact.capacity.as_ref(),
                    admin: exact.admin_access == Some(true),
                };
                alternatives.push(request(of.name.clone(), &of.name, &asked, key, devices)?);
            }
            for sub in of.first_available.iter().flatten() {
                let asked = RequestFields {
                    class: &sub.device_class_name,
                    mode: sub.allocation_mode.as_deref(),
                    count: sub.count,
                    selectors: sub.selectors.as_deref().unwrap_or_default(),
                    tolerations: sub.tolerations.as_deref().unwrap_or_default(),
                    capacity: sub.capacity.as_ref(),
                    admin: false,
                };
                let name = format!("{}/{}", of.name, sub.name);
                alternatives.push(request(name, &of.name, &asked, key, devices)?);
            }
            if alternatives.is_empty() {
                return Err(format!(
                    "resource claim {key}, request {}: unknown request type",
                    of.name
                ));
            }
            requests.push(alternatives);
        }
        let constraints = spec.iter().flat_map(|s| s.constraints.iter().flatten());
        let constraints = constraints.enumerate().map(|(i, c)| {
            let requests = c.requests.as_deref().unwrap_or_default();
            match (&c.match_attribute, &c.distinct_attribute) {
                (Some(attribute), _) => Ok(Constraint::Match {
                    attribute,
                    requests,
                }),
                (None, Some(attribute)) => Ok(Constraint::Distinct {
                    attribute,
                    requests,
                }),
                (None, None) => Err(wrong(format!(
                    "constraint #{i}: empty constraint (unsupported constraint type?)"
                ))),
            }
        });
        Ok(Self {
            key: key.to_owned(),
            claim,
            requests,
            constraints: constraints.collect::<Result<_, String>>()?,
        })
    }
}

fn request<'a>(
    name: String,
    base: &'a str,
    asked: &RequestFields<'a>,
    key: &str,
    devices: &'a Devices,
) -> Result<Request<'a>, String> {
    let Some(class) = devices.class(asked.class) else {
        return Err(format!(
            "request {name}: device class {} does not exist",
            asked.class
        ));
    };
    let mut selectors = Vec::new();
    let of_class = class.spec.selectors.iter().flatten();
    let places = [
        (
            format!("class {}", asked.class),
            of_class.collect::<Vec<_>>(),
        ),
        (format!("claim {key}"), asked.selectors.iter().collect()),
    ];
    for (place, list) in places {
        for (i, selector) in list.into_iter().enumerate() {
            let place = format!("{place}: selector #{i}");
            let Some(cel) = &selector.cel else {
                return Err(format!(
                    "{place}: CEL expression empty (unsupported selector type?)"
                ));
            };
            let compiled = devices.compiled().get(&cel.expression);
            let compiled = compiled.map_err(|e| format!("{place}: CEL compile error: {e}"))?;
            selectors.push((place, compiled));
        }
    }
    let count = match asked.mode.unwrap_or("ExactCount") {
        "All" => None,
        "" | "ExactCount" => {
            let count = asked.count.filter(|c| *c != 0).unwrap_or(1);
            Some(usize::try_from(count).unwrap_or(usize::MAX))
        }
        mode => {
            return Err(format!(
                "claim {key}, request {name}: unsupported count mode {mode}"
            ));
        }
    };
    let capacity = asked.capacity.and_then(|c| c.requests.as_ref());
    let capacity = capacity.into_iter().flatten();
    Ok(Request {
        name,
        base,
        class,
        count,
        admin: asked.admin,
        capacity: capacity.map(|(n, q)| (n.clone(), quantity(q))).collect(),
        tolerations: asked.tolerations,
        selectors,
    })
}

/// Whether a toleration is about a taint, whatever the taint's effect does.
fn tolerates(t: &k8s::DeviceToleration, taint: &k8s::DeviceTaint) -> bool {
    let taint = api::taint::Taint::of(&taint.key, &taint.value, &taint.effect);
    api::taint::Toleration::of(&t.key, &t.operator, &t.value, &t.effect).tolerates(&taint)
}
