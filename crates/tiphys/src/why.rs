//! `tiphys why`: asks why something is as it is, or what a change would do. It reads the state of
//! the cluster with its user's rights and decides nothing itself ([`scheduler::why`]).

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use scheduler::why::{Change, Question, State, answer};

use crate::components::SchedulerFlags;
use crate::say::say;
use crate::show::Output;
use crate::show::progress::Work;

#[derive(Args)]
pub struct WhyArgs {
    /// pod/NAME, deployment/NAME, statefulset/NAME, daemonset/NAME, job/NAME, cronjob/NAME, hpa/NAME,
    /// pdb/NAME, pvc/NAME, namespace/NAME, service/NAME or node/NAME; with --if it may be left out, to
    /// see what the changes would do.
    question: Option<Question>,
    /// Namespace of what is asked about.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Suppose a change of the cluster; may be given several times, one change after the other:
    /// node/NAME+memory=2Gi or node/NAME-cpu=500m (a node has more or less of any resource, such as
    /// ephemeral-storage or example.com/gpu), drain/NAME, uncordon/NAME, or scale/KIND/NAME=50 of a
    /// deployment, replicaset, statefulset, replicationcontroller or job (its parallelism). Nothing is
    /// changed.
    #[arg(long = "if", value_name = "CHANGE")]
    suppose: Vec<Change>,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Kubeconfig of somebody who may read pods, nodes, volumes and workloads.
    #[arg(
        long,
        env = "KUBECONFIG",
        default_value = "/var/lib/tiphys/admin.kubeconfig"
    )]
    kubeconfig: PathBuf,
    #[command(flatten)]
    scheduler: SchedulerFlags,
}

pub async fn run(args: WhyArgs) -> Result<()> {
    ensure!(
        args.question.is_some() || !args.suppose.is_empty(),
        "name what is asked about, such as pod/NAME, or suppose a change with --if"
    );
    let file = args.scheduler.open()?;
    let client = client::from_kubeconfig(&args.kubeconfig, "tiphys-why").await?;
    let question = args.question.as_ref();
    let work = Work::begin();
    work.waits("reading the state of the cluster");
    let state = State::load(&client, &args.namespace, question, &args.suppose)
        .await
        .context("reading the state of the cluster")?;
    drop(work);
    let profiles = || file.profiles();
    let answer = answer(&state, &args.namespace, question, &args.suppose, &profiles)?;
    let text = args
        .output
        .of(&answer, || vec![answer.to_string().trim_end().to_owned()])?;
    say!("{text}");
    Ok(())
}
