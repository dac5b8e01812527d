//! One table and what is known to stand in it: brings it to what is desired in one transaction, and
//! finds out when somebody else has changed it.

use super::{Dirty, Installed, NftError, Ruleset, Socket, Table, diff, diff_part};

/// A table that belongs to one part alone.
pub struct Mirror {
    table: Table,
    socket: Socket,
    /// `None` while it is unknown: at the start, and after a transaction that failed.
    installed: Option<Installed>,
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
            generation: None,
        })
    }

    /// Brings the table to what is desired, of which only `dirty` may differ from the last call.
    /// An error leaves the old rules; the next call compares everything.
    pub fn program(&mut self, desired: &Ruleset, dirty: &Dirty) -> Result<(), NftError> {
        let (delta, mut installed) = match self.installed.take() {
            Some(installed) => {
                let delta = diff_part(&self.table, &installed, desired, dirty);
                (delta, installed)
            }
            None => {
                self.generation = self.socket.generation()?;
                let installed = self.socket.read(&self.table)?;
                (diff(&self.table, &installed, desired), installed)
            }
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
        Ok(())
    }

    /// Compares with the kernel if anybody has changed anything since it was last known, and
    /// repairs the table; says whether there was something to repair.
    pub fn verify(&mut self, desired: &Ruleset) -> Result<bool, NftError> {
        let now = self.socket.generation()?;
        if self.installed.is_some() && now.is_some() && now == self.generation {
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
        // What happened while it was read is seen the next time.
        self.generation = now;
        Ok(repaired)
    }

    /// Whether it is known what stands in the kernel: if not, the next call compares everything.
    pub fn is_known(&self) -> bool {
        self.installed.is_some()
    }

    /// Compares with the kernel at the next call, whatever is believed to be installed.
    pub fn distrust(&mut self) {
        self.installed = None;
    }
}
