//! One control group, read: what it has used, its limits, who is in it. Its folders are opened when
//! they are needed, once, and from those of the group above it.

use super::folder::{Controller, Folder};
use super::stats::{self, Stats};
use super::{Hierarchy, Limits, NO_LIMIT};
use std::cell::OnceCell;

/// A group, whether there is one or not.
#[derive(Debug)]
pub struct Group<'a> {
    hierarchy: &'a Hierarchy,
    above: Option<&'a Group<'a>>,
    /// From the group above; without one from the root.
    name: String,
    /// One for each controller of version 1; of version 2 that of memory is for all.
    folders: [OnceCell<Folder>; Controller::COUNT],
    huge_page_sizes: OnceCell<Vec<String>>,
}

impl<'a> Group<'a> {
    pub(super) fn new(hierarchy: &'a Hierarchy, above: Option<&'a Group<'a>>, name: &str) -> Self {
        Self {
            hierarchy,
            above,
            name: name.trim_start_matches('/').to_owned(),
            folders: std::array::from_fn(|_| OnceCell::new()),
            huge_page_sizes: OnceCell::new(),
        }
    }

    /// A group in this one.
    #[must_use]
    pub fn below(&'a self, name: &str) -> Self {
        Self::new(self.hierarchy, Some(self), name)
    }

    fn folder(&self, controller: Controller) -> &Folder {
        let of = match self.hierarchy {
            Hierarchy::V1 { .. } => controller,
            Hierarchy::V2 { .. } => Controller::Memory,
        };
        self.folders[of as usize].get_or_init(|| match self.above {
            Some(above) => above.folder(controller).below(&self.name),
            None => Folder::at(&self.hierarchy.folder(controller.name(), &self.name)),
        })
    }

    fn is_there(&self) -> bool {
        let of = [
            Controller::Memory,
            Controller::Cpu,
            Controller::Pids,
            Controller::Cpuset,
        ];
        of.iter().any(|c| self.folder(*c).is_there())
    }

    /// What the group and those below it have used.
    #[must_use]
    pub fn stats(&self) -> Option<Stats> {
        let folder = |controller| self.folder(controller);
        match self.hierarchy {
            Hierarchy::V1 { .. } => stats::v1::read(folder, self.huge_page_sizes()),
            Hierarchy::V2 { .. } => {
                stats::v2::read(folder(Controller::Memory), self.huge_page_sizes())
            }
        }
    }

    /// Sizes of huge pages that the group may count. None has a controller that the group above it does
    /// not have, so only the uppermost folder is looked through.
    fn huge_page_sizes(&self) -> &[String] {
        if let Some(above) = self.above {
            return above.huge_page_sizes();
        }
        let ending = match self.hierarchy {
            Hierarchy::V1 { .. } => ".usage_in_bytes",
            Hierarchy::V2 { .. } => ".current",
        };
        self.huge_page_sizes.get_or_init(|| {
            let files = self.folder(Controller::Hugetlb).names();
            let sizes = files.iter().filter_map(|name| {
                let size = name.strip_prefix("hugetlb.")?.strip_suffix(ending)?;
                // Reservations are not use.
                (!size.contains('.')).then(|| size.to_owned())
            });
            let mut sizes: Vec<String> = sizes.collect();
            sizes.sort();
            sizes
        })
    }

    /// Ids of the processes in the group and below it.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let mut out = Vec::new();
        collect_processes(self.folder(Controller::Memory), &mut out);
        out
    }

    /// The kernel's limit of the group's memory in bytes; none if there is none.
    #[must_use]
    pub fn memory_limit(&self) -> Option<u64> {
        let file = match self.hierarchy {
            Hierarchy::V1 { .. } => "memory.limit_in_bytes",
            Hierarchy::V2 { .. } => "memory.max",
        };
        self.bound(file)
    }

    /// How much swap it may use, if there is a limit of it that the kernel keeps.
    #[must_use]
    pub fn swap_limit(&self) -> Option<u64> {
        match self.hierarchy {
            // Version 1 limits memory and swap together.
            Hierarchy::V1 { .. } => {
                let both = self.bound("memory.memsw.limit_in_bytes")?;
                Some(both.saturating_sub(self.memory_limit()?))
            }
            Hierarchy::V2 { .. } => self.folder(Controller::Memory).number("memory.swap.max"),
        }
    }

    /// Memory above which it is asked to give some back, if anybody said so.
    #[must_use]
    pub fn memory_reservation(&self) -> Option<u64> {
        let file = match self.hierarchy {
            Hierarchy::V1 { .. } => "memory.soft_limit_in_bytes",
            Hierarchy::V2 { .. } => "memory.high",
        };
        self.bound(file)
    }

    fn bound(&self, file: &str) -> Option<u64> {
        let found = self.folder(Controller::Memory).number(file);
        found.filter(|v| *v < NO_LIMIT)
    }

    /// The limits that the kernel has for the group; what it does not say, or says in other words
    /// (weights of version 2), is left out. None if there is no such group.
    #[must_use]
    pub fn limits(&self) -> Option<Limits> {
        if !self.is_there() {
            return None;
        }
        let mut out = Limits {
            memory_bytes: self.memory_limit().and_then(|v| i64::try_from(v).ok()),
            ..Limits::default()
        };
        let cpu = self.folder(Controller::Cpu);
        let number = |file: &str| cpu.text(file)?.trim().parse::<i64>().ok();
        match self.hierarchy {
            Hierarchy::V1 { .. } => {
                let whole = |file| number(file).and_then(|v| u64::try_from(v).ok());
                out.cpu_shares = whole("cpu.shares");
                out.cpu_period = whole("cpu.cfs_period_us");
                out.cpu_quota = number("cpu.cfs_quota_us");
            }
            Hierarchy::V2 { .. } => {
                let text = cpu.text("cpu.max").unwrap_or_default();
                let (quota, period) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
                out.cpu_quota = quota.parse().ok();
                out.cpu_period = period.parse().ok();
            }
        }
        Some(out)
    }
}

fn collect_processes(folder: &Folder, out: &mut Vec<u32>) {
    let own = folder.text("cgroup.procs").unwrap_or_default();
    out.extend(own.lines().filter_map(|l| l.trim().parse::<u32>().ok()));
    for name in folder.folders() {
        collect_processes(&folder.below(&name), out);
    }
}
