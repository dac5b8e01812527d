//! What is recorded of requests, and where: flags with upstream's names, and the files that they name.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use apiserver::audit::log::{LogFile, Rotation};
use apiserver::audit::policy::{DEFAULT, Policy};
use apiserver::audit::sink::Mode;
use apiserver::audit::webhook::{Batches, Webhook};
use apiserver::audit::{Feed, Plan, QUEUE};
use clap::{Args, ValueEnum};
use clock::Clock;
use jiff::SignedDuration;
use wire::kubeconfig::Remote;

use crate::flags::BoolFlag as _;

/// The file below the data directory, where none is named.
const FILE: &str = "audit.log";
/// Files of it that are kept beside it: half a gigabyte in all. Of a file that is named, upstream's
/// number are.
const FILES: usize = 4;
const NAMED_FILES: usize = 100;

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum FeedMode {
    /// Requests do not wait; events that find no place in the queue are counted.
    Batch,
    /// Requests wait until their events have arrived.
    Blocking,
    /// And a request whose first event does not arrive is refused.
    BlockingStrict,
}

impl From<FeedMode> for Mode {
    fn from(mode: FeedMode) -> Self {
        match mode {
            FeedMode::Batch => Self::Batch,
            FeedMode::Blocking => Self::Blocking,
            FeedMode::BlockingStrict => Self::BlockingStrict,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    /// One object of audit.k8s.io/v1 a line.
    Json,
}

/// Upstream's flags.
#[derive(Args, Clone)]
pub struct AuditFlags {
    /// Which requests are recorded, and how much of them: a Policy of audit.k8s.io/v1 [default: who
    /// writes what, without bodies].
    #[arg(long)]
    audit_policy_file: Option<PathBuf>,
    /// Where they are recorded; `-` for standard output, `none` for nowhere [default: audit.log in
    /// the data directory, unless there is a webhook].
    #[arg(long)]
    audit_log_path: Option<PathBuf>,
    /// How they are written.
    #[arg(long, value_enum, default_value = "json")]
    audit_log_format: Format,
    /// MiB of a file, from which it is put aside; 0 for no bound.
    #[arg(long, default_value_t = 100)]
    audit_log_maxsize: u64,
    /// Files that were put aside, and are kept; 0 for all [default: 4 beside the default file, 100
    /// beside one that is named].
    #[arg(long)]
    audit_log_maxbackup: Option<usize>,
    /// Days after which files that were put aside are removed; 0 for never.
    #[arg(long, default_value_t = 366)]
    audit_log_maxage: u32,
    /// Whether requests wait until they are recorded.
    #[arg(long, value_enum, default_value = "batch")]
    audit_log_mode: FeedMode,
    /// Events that wait to be written.
    #[arg(long, default_value_t = QUEUE)]
    audit_log_batch_buffer_size: usize,
    /// Leave bodies out of events that are larger than --audit-log-truncate-max-event-size.
    #[arg(long)]
    audit_log_truncate_enabled: bool,
    /// Bytes of an event beyond which its bodies are left out, where that is enabled.
    #[arg(long, default_value_t = 100 << 10)]
    audit_log_truncate_max_event_size: usize,
    /// To whom events are posted: a kubeconfig.
    #[arg(long)]
    audit_webhook_config_file: Option<PathBuf>,
    /// Whether requests wait until their events are posted.
    #[arg(long, value_enum, default_value = "batch")]
    audit_webhook_mode: FeedMode,
    /// Events that wait to be posted.
    #[arg(long, default_value_t = QUEUE)]
    audit_webhook_batch_buffer_size: usize,
    /// Events of a batch.
    #[arg(long, default_value_t = 400)]
    audit_webhook_batch_max_size: usize,
    /// Time after which a batch is posted that is not full.
    #[arg(long, default_value = "30s")]
    audit_webhook_batch_max_wait: SignedDuration,
    /// Whether batches are held to a pace.
    #[arg(long, bool_flag(true))]
    audit_webhook_batch_throttle_enable: bool,
    /// Batches a second.
    #[arg(long, default_value_t = 10.0)]
    audit_webhook_batch_throttle_qps: f64,
    /// Batches at once, after a pause.
    #[arg(long, default_value_t = 15)]
    audit_webhook_batch_throttle_burst: u32,
    /// Time before a batch that did not arrive is posted again.
    #[arg(long, default_value = "10s")]
    audit_webhook_initial_backoff: SignedDuration,
    /// Leave bodies out of events that are larger than --audit-webhook-truncate-max-event-size.
    #[arg(long)]
    audit_webhook_truncate_enabled: bool,
    /// Bytes of an event beyond which its bodies are left out, where that is enabled.
    #[arg(long, default_value_t = 100 << 10)]
    audit_webhook_truncate_max_event_size: usize,
}

impl AuditFlags {
    /// Reads the files and opens the log; none where nothing is recorded.
    pub fn open(&self, dir: &Path, clock: Clock) -> Result<Option<Plan>> {
        let mut plan = Plan::new(self.policy()?);
        if let Some((path, kept)) = self.log_path(dir) {
            let rotation = Rotation {
                max_size_mib: self.audit_log_maxsize,
                max_backups: self.audit_log_maxbackup.unwrap_or(kept),
                max_age_days: self.audit_log_maxage.into(),
            };
            let file = LogFile::open(&path, rotation, clock);
            let file = file.with_context(|| format!("--audit-log-path {}", path.display()))?;
            let Format::Json = self.audit_log_format;
            let feed = Feed {
                mode: self.audit_log_mode.into(),
                queue: positive(
                    self.audit_log_batch_buffer_size,
                    "--audit-log-batch-buffer-size",
                )?,
                truncate: self
                    .audit_log_truncate_enabled
                    .then_some(self.audit_log_truncate_max_event_size),
            };
            plan = plan.with_log(file, feed);
        }
        if let Some(path) = &self.audit_webhook_config_file {
            let told = || format!("--audit-webhook-config-file {}", path.display());
            let remote = Remote::read(path).with_context(told)?;
            let webhook = Webhook::new(&remote, self.batches()?).with_context(told)?;
            let feed = Feed {
                mode: self.audit_webhook_mode.into(),
                queue: positive(
                    self.audit_webhook_batch_buffer_size,
                    "--audit-webhook-batch-buffer-size",
                )?,
                truncate: self
                    .audit_webhook_truncate_enabled
                    .then_some(self.audit_webhook_truncate_max_event_size),
            };
            plan.webhook = Some((webhook, feed));
        }
        Ok((plan.log.is_some() || plan.webhook.is_some()).then_some(plan))
    }

    fn policy(&self) -> Result<Policy> {
        let Some(path) = &self.audit_policy_file else {
            return Ok(Policy::read(DEFAULT.as_bytes())?);
        };
        let told = || format!("--audit-policy-file {}", path.display());
        let bytes = std::fs::read(path).with_context(told)?;
        Policy::read(&bytes).with_context(told)
    }

    /// The log's file, and how many are kept beside it.
    fn log_path(&self, dir: &Path) -> Option<(PathBuf, usize)> {
        match &self.audit_log_path {
            Some(path) if path.as_os_str() == "none" => None,
            Some(path) => Some((path.clone(), NAMED_FILES)),
            None if self.audit_webhook_config_file.is_some() => None,
            None => Some((dir.join(FILE), FILES)),
        }
    }

    fn batches(&self) -> Result<Batches> {
        let throttle = self.audit_webhook_batch_throttle_enable.then_some((
            self.audit_webhook_batch_throttle_qps,
            f64::from(self.audit_webhook_batch_throttle_burst),
        ));
        ensure!(
            throttle.is_none_or(|(qps, burst)| qps > 0.0 && burst > 0.0),
            "--audit-webhook-batch-throttle-qps and -burst must be positive"
        );
        let wait = self.audit_webhook_batch_max_wait.try_into();
        let backoff = self.audit_webhook_initial_backoff.try_into();
        Ok(Batches {
            most: positive(
                self.audit_webhook_batch_max_size,
                "--audit-webhook-batch-max-size",
            )?,
            wait: wait.context("--audit-webhook-batch-max-wait")?,
            throttle,
            backoff: backoff.context("--audit-webhook-initial-backoff")?,
        })
    }
}

fn positive(number: usize, flag: &str) -> Result<usize> {
    ensure!(number > 0, "{flag} must be positive");
    Ok(number)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        audit: AuditFlags,
    }

    fn open(dir: &Path, args: &[&str]) -> Result<Option<Plan>> {
        let args = std::iter::once("x").chain(args.iter().copied());
        Command::try_parse_from(args)?
            .audit
            .open(dir, Clock::system())
    }

    #[test]
    fn writes_are_recorded_unless_that_is_switched_off() {
        let dir = tempfile::tempdir().expect("dir");
        let plan = open(dir.path(), &[]).expect("open").expect("a plan");
        assert!(plan.log.is_some() && plan.webhook.is_none());
        assert!(dir.path().join(FILE).exists());
        let none = open(dir.path(), &["--audit-log-path=none"]).expect("open");
        assert!(none.is_none());
    }

    #[test]
    fn what_is_wrong_is_said_at_the_start() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("policy.yaml");
        let text = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Everything}]\n";
        std::fs::write(&path, text).expect("file");
        let flag = format!("--audit-policy-file={}", path.display());
        let error = open(dir.path(), &[&flag]).err().expect("refused");
        let text = format!("{error:#}");
        assert!(
            text.contains("rules[0].level") && text.contains("policy.yaml"),
            "{text}"
        );
        for wrong in [
            "--audit-policy-file=/nowhere",
            "--audit-webhook-config-file=/nowhere",
            "--audit-log-batch-buffer-size=0",
            "--audit-log-format=legacy",
        ] {
            assert!(open(dir.path(), &[wrong]).is_err(), "{wrong}");
        }
    }
}
