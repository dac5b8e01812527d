//! The socket to nf_tables: transactions, and reading a table back.

use std::collections::BTreeMap;
use std::io;

use thiserror::Error;

use super::encode::{self, Batch, SUBSYSTEM, message};
use super::layout::{self, Layout};
use super::user_data::fingerprint_of;
use super::{
    ChainKind, Delta, Hook, Installed, InstalledChain, InstalledSet, Key, Point, Table, Value,
    Verdict,
};
use crate::netfilter::{Channel, NLMSG_ERROR};
use crate::nla::{self, Attributes};

/// How often a dump is repeated that another writer's transaction spoilt.
const DUMP_ATTEMPTS: u32 = 10;

/// Why the kernel's tables could not be read or changed.
#[derive(Debug, Error)]
pub enum NftError {
    /// The socket could not be opened or used.
    #[error("netfilter socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel refused a command; nothing of the transaction was done.
    #[error("nftables command {command} of {commands} refused: {cause}")]
    Refused {
        /// Its number in the transaction.
        command: u32,
        /// How many commands there were.
        commands: u32,
        /// The errno.
        cause: io::Error,
    },
    /// The kernel answered less than it has to.
    #[error("no acknowledgement of the nftables transaction")]
    Unanswered,
    /// The dump was spoilt again and again by other changes.
    #[error("the table changes faster than it can be read")]
    Unsteady,
}

/// A netfilter socket in the network namespace of the thread that opened it.
pub struct Socket(Channel);

impl Socket {
    /// Opens a socket; needs CAP_NET_ADMIN to be of use.
    pub fn open() -> Result<Self, NftError> {
        Ok(Self(Channel::open()?))
    }

    /// Carries out the changes as one transaction and notes them as installed.
    pub fn program(
        &mut self,
        table: &Table,
        delta: Delta,
        installed: &mut Installed,
    ) -> Result<(), NftError> {
        self.commit(delta.batch(table))?;
        delta.apply(table, installed);
        Ok(())
    }

    /// Carries out a transaction: wholly, or not at all.
    pub fn commit(&mut self, batch: Batch) -> Result<(), NftError> {
        if batch.is_empty() {
            return Ok(());
        }
        let commands = batch.len();
        let (bytes, last) = batch.finish();
        self.0.send(&bytes)?;
        let mut acknowledged = false;
        while let Some(datagram) = self.0.receive()? {
            for answer in nla::messages(&datagram).filter(|m| m.kind == NLMSG_ERROR) {
                match answer.errno() {
                    0 => acknowledged |= answer.sequence == last,
                    errno => {
                        let command = answer.sequence.saturating_sub(1);
                        let cause = io::Error::from_raw_os_error(errno);
                        return Err(NftError::Refused {
                            command,
                            commands,
                            cause,
                        });
                    }
                }
            }
        }
        if acknowledged {
            Ok(())
        } else {
            Err(NftError::Unanswered)
        }
    }

    /// The number of the last transaction of anybody in this network namespace; `None` where the
    /// kernel does not say.
    pub fn generation(&mut self) -> Result<Option<u32>, NftError> {
        let kind = (SUBSYSTEM << 8) | message::GET_GENERATION;
        let mut number = None;
        self.0.ask(kind, 0, |a| number = number.or(a.u32(1)))?;
        Ok(number)
    }

    /// Deletes the table if it exists.
    pub fn delete_table(&mut self, table: &Table) -> Result<(), NftError> {
        let mut batch = Batch::new();
        batch.add_table(table);
        batch.delete_table(table);
        self.commit(batch)
    }

    /// Reads what stands in the table; a missing table is empty.
    pub fn read(&mut self, table: &Table) -> Result<Installed, NftError> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(installed) = self.read_once(table)? {
                return Ok(installed);
            }
        }
        Err(NftError::Unsteady)
    }

    fn read_once(&mut self, table: &Table) -> Result<Option<Installed>, NftError> {
        let mut installed = Installed::default();
        let steady = self.dump(table, message::GET_CHAIN, None, |a| {
            if a.text(1) == Some(&table.name) {
                let chain = InstalledChain {
                    hook: hook_of(a),
                    rules: Vec::new(),
                };
                installed
                    .chains
                    .insert(a.text(3).unwrap_or_default().to_owned(), chain);
            }
        })? && self.dump(table, message::GET_RULE, None, |a| {
            let chain = installed.chains.get_mut(a.text(2).unwrap_or_default());
            if let Some(chain) = chain.filter(|_| a.text(1) == Some(&table.name)) {
                chain
                    .rules
                    .push(fingerprint_of(a.get(7).unwrap_or_default()));
            }
        })? && self.dump(table, message::GET_SET, None, |a| {
            let layout = layout_of(a);
            if a.text(1) == Some(&table.name) && layout.flags & encode::SET_ANONYMOUS == 0 {
                let set = InstalledSet {
                    layout,
                    elements: BTreeMap::new(),
                };
                installed
                    .sets
                    .insert(a.text(2).unwrap_or_default().to_owned(), set);
            }
        })?;
        if !steady {
            return Ok(None);
        }
        for (name, set) in &mut installed.sets {
            // The content of maps with timeouts is the kernel's own.
            if set.layout.flags & layout::SET_TIMEOUT != 0 {
                continue;
            }
            let layout = set.layout;
            let steady = self.dump(table, message::GET_ELEMENT, Some(name), |a| {
                for (_, bytes) in a.nested(3) {
                    set.elements
                        .extend(element_of(Attributes(bytes), layout, table));
                }
            })?;
            if !steady {
                return Ok(None);
            }
        }
        installed.table = !installed.chains.is_empty() || !installed.sets.is_empty();
        Ok(Some(installed))
    }

    fn dump(
        &mut self,
        table: &Table,
        kind: u16,
        set: Option<&str>,
        each: impl FnMut(Attributes<'_>),
    ) -> Result<bool, NftError> {
        let kind = (SUBSYSTEM << 8) | kind;
        let steady = self.0.dump(
            kind,
            layout::family_number(table.family),
            |w| {
                w.text(1, &table.name);
                if let Some(set) = set {
                    w.text(2, set);
                }
            },
            each,
        )?;
        Ok(steady)
    }
}

fn hook_of(chain: Attributes<'_>) -> Option<Hook> {
    let hook = chain.nested(4);
    let kind = match chain.text(7)? {
        "nat" => ChainKind::Nat,
        _ => ChainKind::Filter,
    };
    let point = match hook.u32(1)? {
        0 => Point::Prerouting,
        1 => Point::Input,
        2 => Point::Forward,
        3 => Point::Output,
        _ => Point::Postrouting,
    };
    Some(Hook {
        kind,
        point,
        priority: hook.u32(2)? as i32,
    })
}

fn layout_of(set: Attributes<'_>) -> Layout {
    let number = |kind| set.u32(kind).unwrap_or(0);
    Layout {
        flags: number(3),
        key: (number(4), number(5)),
        data: set.u32(6).map(|kind| match kind {
            layout::DATA_VERDICT => (kind, 16),
            _ => (kind, number(7)),
        }),
    }
}

fn element_of(element: Attributes<'_>, layout: Layout, table: &Table) -> Option<(Key, Value)> {
    let fields = layout::fields_of(layout.key.0)?;
    let key = layout::key_of(element.nested(1).get(1)?, &fields, table.family)?;
    let data = element.nested(2);
    let value = match layout.data {
        None if element.u32(3).unwrap_or(0) & encode::ELEMENT_END != 0 => Value::End,
        None => Value::Present,
        Some((layout::DATA_VERDICT, _)) => Value::Verdict(verdict_of(data.nested(2))?),
        Some(layout::NUMBER) => Value::Number(layout::number_of(data.get(1)?)?),
        Some(_) => Value::Endpoint(layout::endpoint_of(data.get(1)?, table.family)?),
    };
    Some((key, value))
}

fn verdict_of(verdict: Attributes<'_>) -> Option<Verdict> {
    let chain = || verdict.text(2).unwrap_or_default().to_owned();
    Some(match verdict.u32(1)? as i32 {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -5 => Verdict::Return,
        -3 => Verdict::Jump(chain()),
        -4 => Verdict::Goto(chain()),
        _ => return None,
    })
}
