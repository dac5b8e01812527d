//! One table and what is known to stand in it: brings it to what is desired, in as few transactions
//! as no packet notices, and finds out when somebody else has changed it.

use super::{Delta, Dirty, Installed, NftError, Order, Ruleset, Socket, Stages, Table};

/// A table that belongs to one part alone.
pub struct Mirror {
    table: Table,
    socket: Socket,
    /// `None` while it is unknown: at the start, and after a transaction that failed.
    installed: Option<Installed>,
    /// `installed` was read, and not compared with anything yet.
    unchecked: bool,
    /// The number of the last transaction, of anybody, up to which `installed` is known to be true.
    generation: Option<u32>,
    stages: Stages,
}

impl Mirror {
    /// For a table in the calling thread's network namespace.
    pub fn open(table: Table) -> Result<Self, NftError> {
        Self::ordered(table, Order::default())
    }

    /// As [`Mirror::open`], for a table whose changes have an order.
    pub fn ordered(table: Table, order: Order) -> Result<Self, NftError> {
        Ok(Self {
            table,
            socket: Socket::open()?,
            installed: None,
            unchecked: false,
            generation: None,
            stages: Stages::new(order),
        })
    }

    /// What stands in the kernel, read if it is not known.
    pub fn installed(&mut self) -> Result<&Installed, NftError> {
        let installed = match self.installed.take() {
            Some(installed) => installed,
            None => {
                self.generation = self.socket.generation()?;
                self.unchecked = true;
                self.socket.read(&self.table)?
            }
        };
        Ok(self.installed.insert(installed))
    }

    /// Brings the table to what is desired, of which only `dirty` may differ from the last call.
    /// An error leaves the old rules, or some of the new ones; the next call compares everything.
    pub fn program(&mut self, desired: &Ruleset, dirty: &Dirty) -> Result<(), NftError> {
        self.installed()?;
        let known = self.is_known();
        // Until it succeeds, nothing is known.
        let mut installed = self.installed.take().unwrap_or_default();
        // A table that is not there need not be made to be empty.
        let nothing = desired.chains.is_empty() && desired.sets.is_empty() && !installed.table;
        if !nothing {
            let dirty = known.then_some(dirty);
            let stages = self.stages.change(&self.table, &installed, desired, dirty);
            for stage in stages {
                self.transact(stage, &mut installed)?;
            }
        }
        self.installed = Some(installed);
        self.unchecked = false;
        Ok(())
    }

    fn transact(&mut self, delta: Delta, installed: &mut Installed) -> Result<(), NftError> {
        let before = self.socket.generation()?;
        self.socket.program(&self.table, delta, installed)?;
        // Own transactions are no reason to look; others' in between are.
        let after = self.socket.generation()?;
        let alone = before == self.generation && after == before.map(|n| n.wrapping_add(1));
        if alone {
            self.generation = after;
        }
        Ok(())
    }

    /// Removes what was left before the last call: no packet is under way any more that needs it.
    fn clear(&mut self, desired: &Ruleset) -> Result<(), NftError> {
        if !self.is_known() {
            return Ok(());
        }
        let mut installed = self.installed.take().unwrap_or_default();
        let delta = self.stages.clear(&self.table, &installed, desired);
        if !delta.is_empty() {
            self.transact(delta, &mut installed)?;
        }
        self.installed = Some(installed);
        Ok(())
    }

    /// Compares with the kernel if anybody has changed anything since it was last known, and
    /// repairs the table; says whether there was something to repair. What nothing leads to any
    /// more is removed here: it is to be called now and then.
    pub fn verify(&mut self, desired: &Ruleset) -> Result<bool, NftError> {
        self.clear(desired)?;
        let now = self.socket.generation()?;
        if self.is_known() && now.is_some() && now == self.generation {
            return Ok(false);
        }
        let mut installed = self.socket.read(&self.table)?;
        let delta = self.stages.strange(&self.table, &installed, desired);
        let nothing = desired.chains.is_empty() && desired.sets.is_empty() && !installed.table;
        let repaired = !delta.is_empty() && !nothing;
        if repaired {
            self.installed = None;
            self.socket.program(&self.table, delta, &mut installed)?;
        }
        self.installed = Some(installed);
        self.unchecked = false;
        // What happened while it was read is seen the next time.
        self.generation = now;
        Ok(repaired)
    }

    /// Whether it is known what stands in the kernel: if not, the next call compares everything.
    pub fn is_known(&self) -> bool {
        self.installed.is_some() && !self.unchecked
    }

    /// Compares with the kernel at the next call, whatever is believed to be installed.
    pub fn distrust(&mut self) {
        self.installed = None;
    }
}
