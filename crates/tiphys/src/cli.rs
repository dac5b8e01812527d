//! The command line. Flags of components that can be exchanged for upstream's have upstream's
//! names.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use supervisor::control::MachineKind;

use crate::node::NodeAction;
use crate::say::say;
use crate::show::{OutputFlag, docs, logs, status, top};
use crate::{
    balancer, components, console, demo, images, node, runtime, secrets, server, simulate,
    snapshot, token, up, why,
};

/// A Kubernetes-compatible container orchestrator in one binary.
#[derive(Parser)]
#[command(name = "tiphys", version, disable_help_subcommand = true)]
pub struct Cli {
    /// What is logged to standard error, such as `info` or `warn,kubelet=debug`; `simulate` logs `warn`
    /// where it is not given.
    #[arg(long, global = true, env = "TIPHYS_LOG", default_value = "info")]
    pub log: String,
    /// How lines of the log are written.
    #[arg(
        long,
        global = true,
        value_enum,
        env = "TIPHYS_LOGGING_FORMAT",
        default_value_t = LoggingFormat::Text
    )]
    pub logging_format: LoggingFormat,
    #[command(subcommand)]
    pub command: Command,
}

/// How lines of the log are written.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoggingFormat {
    /// For people.
    Text,
    /// One JSON object a line, for programs.
    Json,
}

#[derive(Subcommand)]
pub enum Command {
    /// Bring up a whole cluster on this machine and watch over it.
    Up(up::UpArgs),
    /// End the cluster that `up` started; its objects stay.
    Down(up::DownArgs),
    /// Show the cluster at a glance, what is wrong first; and its processes, if it runs on this
    /// machine.
    Status(status::StatusArgs),
    /// Show what nodes, pods and containers use: live in a terminal, once elsewhere.
    Top(top::TopArgs),
    /// Show the logs of a pod, or of several together; with --follow, what comes, over restarts.
    Logs(Box<logs::LogsArgs>),
    /// Say what this machine lacks to run a cluster, and how to get it.
    Doctor(up::DoctorArgs),
    /// Run the control plane: API server, controllers and scheduler; or switch a server of
    /// `up --servers` off and on (`kill`, `start`).
    Server(Box<server::ServerCommand>),
    /// Run a node (`--server`, `--token`), or switch a node of `up` off and on (`kill`, `start`), or
    /// clear up after one that has left (`clean-up`).
    Node(Box<node::NodeCommand>),
    /// Tokens with which nodes join.
    Token(token::TokenArgs),
    /// Backups of all objects: save one, restore it into an empty store, look at it.
    Snapshot(snapshot::SnapshotArgs),
    /// The keys with which the store's Secrets are encrypted.
    Secrets(secrets::SecretsArgs),
    /// Say why a pod, Deployment, claim, namespace or Service is as it is, or what a change would
    /// do (`--if`).
    Why(Box<why::WhyArgs>),
    /// Play a cluster that a file describes in virtual time: what fits, what stays pending and why,
    /// what failures do.
    Simulate(simulate::SimulateArgs),
    /// Print the address of the console, a web page, with a token that is good for a short while.
    Console(console::ConsoleArgs),
    /// Print what completes commands and flags in a shell.
    Completion(docs::CompletionArgs),
    /// Print the manual page, or write those of all commands into a folder.
    Man(docs::ManArgs),
    /// Images of this machine's nodes.
    Image(images::ImageArgs),
    /// Print the version, and that of the API it serves.
    Version(OutputFlag),
    /// Run the API server alone.
    Apiserver(Box<server::ServerArgs>),
    /// Run the controllers alone.
    ControllerManager(Box<components::ControllerManagerArgs>),
    /// Run the scheduler alone.
    Scheduler(components::SchedulerArgs),
    /// Run the kubelet alone, on a container runtime that is there already.
    Kubelet(Box<components::KubeletArgs>),
    /// Run the service proxy alone.
    Proxy(components::ProxyArgs),
    /// The demo's web server.
    #[command(hide = true)]
    DemoServer {
        #[arg(long, default_value_t = 8080)]
        port: u16,
    },
    /// Lead this machine's clients to a server that lives.
    #[command(hide = true)]
    Balancer(balancer::BalancerArgs),
    /// Make a node's namespaces and print the PID of its init.
    #[command(hide = true)]
    NodeBoot(BootArgs),
    /// Be the first process of a node.
    #[command(hide = true)]
    NodeInit(BootArgs),
}

#[derive(Args, Clone)]
pub struct BootArgs {
    #[arg(long)]
    pub name: String,
    #[arg(long)]
    pub dir: PathBuf,
    /// Addresses with prefix lengths, and commas between them.
    #[arg(long, value_delimiter = ',', required = true)]
    pub ip: Vec<host::nft::Prefix>,
    #[arg(long)]
    pub gateway: Option<IpAddr>,
    #[arg(long)]
    pub cgroup: String,
    /// Command lines of what runs in it.
    #[arg(last = true)]
    pub programs: Vec<String>,
}

impl BootArgs {
    fn into_args(self) -> supervisor::boot::InitArgs {
        supervisor::boot::InitArgs {
            name: self.name,
            dir: self.dir,
            addresses: self.ip,
            gateway: self.gateway,
            cgroup: self.cgroup,
            programs: supervisor::children::programs_of(&self.programs),
        }
    }
}

fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    runtime::several()
        .build()
        .context("starting the async runtime")?
        .block_on(future)
}

fn block_on_small<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the async runtime")?
        .block_on(future)
}

fn version(output: OutputFlag) -> Result<()> {
    let (own, api) = (env!("CARGO_PKG_VERSION"), api::version::KUBERNETES);
    let value = serde_json::json!({ "tiphys": own, "kubernetes": api });
    output.say(&value, || {
        vec![format!("tiphys {own}, API of Kubernetes {api}")]
    })
}

fn done(result: Result<()>) -> Result<ExitCode> {
    result.map(|()| ExitCode::SUCCESS)
}

pub fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up(args) => done(block_on_small(up::run(args))),
        Command::Down(args) => done(block_on_small(up::down(args))),
        Command::Status(args) => block_on_small(status::run(args)),
        Command::Top(args) => done(block_on_small(top::run(args))),
        Command::Logs(args) => done(block_on_small(logs::run(*args))),
        Command::Completion(args) => done(docs::completion(&args)),
        Command::Man(args) => done(docs::man(&args)),
        Command::Version(output) => done(version(output)),
        Command::Doctor(args) => up::doctor(&args),
        Command::Server(command) => server_command(*command),
        Command::Apiserver(args) => done(block_on(server::run(*args, server::Scope::ApiServer))),
        Command::Node(command) => node_command(*command),
        Command::Token(args) => done(block_on_small(token::run(args))),
        Command::Secrets(args) => done(block_on_small(secrets::run(args))),
        Command::Snapshot(args) => done(block_on(snapshot::run(args))),
        Command::Why(args) => done(block_on_small(why::run(*args))),
        Command::Simulate(args) => done(simulate::run(&args)),
        Command::Console(args) => done(block_on_small(console::run(args))),
        Command::Image(args) => done(block_on_small(images::run(args))),
        Command::ControllerManager(args) => done(block_on(components::controller_manager(*args))),
        Command::Scheduler(args) => done(block_on(components::scheduler(args))),
        Command::Kubelet(args) => done(block_on(components::kubelet(*args))),
        Command::Proxy(args) => done(block_on(components::proxy(args))),
        Command::DemoServer { port } => done(block_on_small(demo::serve(port))),
        Command::Balancer(args) => done(block_on_small(async move {
            balancer::run(args, components::until_signal()?).await
        })),
        Command::NodeBoot(_) => node_boot(),
        Command::NodeInit(args) => run_init(args),
    }
}

/// `node-init` with a command line of its own: see `main`.
pub fn node_init() -> Result<ExitCode> {
    #[derive(Parser)]
    struct Init {
        #[command(flatten)]
        args: BootArgs,
    }
    run_init(Init::parse_from(std::env::args_os().skip(1)).args)
}

fn run_init(args: BootArgs) -> Result<ExitCode> {
    let init = args.into_args();
    done(block_on_small(async move {
        Ok(supervisor::boot::init(init).await?)
    }))
}

fn server_command(command: server::ServerCommand) -> Result<ExitCode> {
    match command.switch {
        Some(switch) => done(block_on_small(up::switch(MachineKind::Server, switch))),
        None => done(block_on(server::run(
            command.server,
            server::Scope::ControlPlane,
        ))),
    }
}

fn node_command(command: node::NodeCommand) -> Result<ExitCode> {
    match command.action {
        Some(NodeAction::Switch(switch)) => {
            done(block_on_small(up::switch(MachineKind::Node, switch)))
        }
        Some(NodeAction::CleanUp(args)) => done(block_on_small(node::clean_up::run(args))),
        None => done(block_on(node::run(command.agent))),
    }
}

/// What it was given was read here already, so that a mistake is said by the process that waits for
/// the answer.
fn node_boot() -> Result<ExitCode> {
    let binary = std::env::current_exe().context("finding the running binary")?;
    let mut init = vec!["node-init".to_owned()];
    init.extend(std::env::args().skip(2));
    say!("{}", supervisor::boot::boot(&binary, &init)?);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Commands that do not answer with a value: what runs until it is ended and logs (`--logging-format`), and
    /// what is made for a shell or for `man`.
    const WITHOUT_ANSWER: [&str; 9] = [
        "server",
        "node",
        "apiserver",
        "controller-manager",
        "scheduler",
        "kubelet",
        "proxy",
        "completion",
        "man",
    ];

    /// Calls this with each command that is shown and has a work of its own, by its words.
    fn each(command: &clap::Command, words: &str, see: &mut impl FnMut(&str, &clap::Command)) {
        // clap puts `help` beside those of a command.
        let is_shown = |c: &&clap::Command| !c.is_hide_set() && c.get_name() != "help";
        let shown = command.get_subcommands().filter(is_shown);
        for sub in shown {
            let words = format!("{words} {}", sub.get_name());
            let words = words.trim();
            if !sub.has_subcommands() || !sub.is_subcommand_required_set() {
                see(words, sub);
            }
            each(sub, words, see);
        }
    }

    #[test]
    fn each_command_that_answers_does_so_for_programs_too() {
        let mut cli = Cli::command();
        // So that flags of a command stand at those below it, too.
        cli.build();
        let mut seen = 0;
        each(&cli, "", &mut |words, command| {
            seen += 1;
            let mut flags = command.get_arguments();
            let output = flags.find(|a| a.get_long() == Some("output"));
            let Some(output) = output else {
                assert!(WITHOUT_ANSWER.contains(&words), "{words} has no --output");
                return;
            };
            assert!(!WITHOUT_ANSWER.contains(&words), "{words} has one");
            let forms = output.get_possible_values();
            let forms: Vec<&str> = forms.iter().map(|f| f.get_name()).collect();
            assert_eq!(forms, ["text", "json", "yaml"], "{words}");
            assert_eq!(output.get_short(), Some('o'), "{words}");
        });
        assert!(seen > 25, "{seen}");
    }
}
