//! Why a pod came into a queue, where that was no event of the cluster: upstream's words.

pub const CREATED: &str = "UnschedulablePodAdd";
pub const CHANGED: &str = "UnschedulablePodUpdate";
pub const UNGATED: &str = "UnschedulablePodUpdatePodSchedulingGatesEliminated";
pub const FAILED: &str = "ScheduleAttemptFailure";
pub const WAITED: &str = "BackoffComplete";
pub const EARLY: &str = "PopFromBackoffQ";
pub const FLUSHED: &str = "UnschedulableTimeout";
/// Room was made for it, or could not be.
pub const ROOM: &str = "ForceActivate";
/// Another pod of its group has a node.
pub const GROUP: &str = "ForceActivate";
