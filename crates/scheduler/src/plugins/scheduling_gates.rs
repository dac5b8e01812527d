//! A pod with scheduling gates waits until they are gone.

use super::{Events, Plugin, Prepare, Reason};
use crate::message;
use crate::pod::Pod;
use crate::snapshot::Snapshot;

pub struct SchedulingGates;

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        "SchedulingGates"
    }
    fn wakes_on(&self) -> Events {
        Events::NONE
    }
    fn gate(&self, pod: &Pod) -> Option<Reason> {
        (!pod.wants.gates.is_empty()).then(|| Reason::one(message::GATED))
    }
    fn prepare<'a>(&'a self, _: &'a Pod, _: &'a Snapshot) -> Prepare<'a> {
        Ok(None)
    }
}
