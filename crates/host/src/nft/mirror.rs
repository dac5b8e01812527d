//! One table and what is known to stand in it: brings it to what is desired in one transaction, and
//! finds out when somebody else has changed it.

use super::{Dirty, Installed, NftError, Ruleset, Socket, Table, diff, diff_part};

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
}

impl Mirror {
    /// For a table in the calling thread's network namespace.
    pub fn open(table: Table) -> Result<Self, NftError> {
        Ok(Self {
            table,
            socket: Socket::open()?,
            installed: None,
            unchecked: false,
            generation: None,
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
    /// An error leaves the old rules; the next call compares everything.
    pub fn program(&mut self, desired: &Ruleset, dirty: &Dirty) -> Result<(), NftError> {
        self.installed()?;
        let known = self.is_known();
        // Until it succeeds, nothing is known.
        let mut installed = self.installed.take().unwrap_or_default();
        let delta = match known {
            true => diff_part(&self.table, &installed, desired, dirty),
            false => diff(&self.table, &installed, desired),
        };
        // A table that is not there need not be made to be empty.
        let nothing = desired.chains.is_empty() && desired.sets.is_empty() && !installed.table;
        if !delta.is_empty() && !nothing {
            let before = self.socket.generation()?;
            self.socket.program(&self.table, delta, &mut installed)?;
            // Own transactions are no reason to look; others' in between are.
            let after = self.socket.generation()?;
            let alone = before == self.generation && after == before.map(|n| n.wrapping_add(1));
            if alone {
                self.generation = after;
            }
        }
        self.installed = Some(installed);
        self.unchecked = false;
        Ok(())
    }

    /// Compares with the kernel if anybody has changed anything since it was last known, and
    /// repairs the table; says whether there was something to repair.
    pub fn verify(&mut self, desired: &Ruleset) -> Result<bool, NftError> {
        let now = self.socket.generation()?;
        if self.is_known() && now.is_some() && now == self.generation {
            return Ok(false);
        }
        let mut installed = self.socket.read(&self.table)?;
        let delta = diff(&self.table, &installed, desired);
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
