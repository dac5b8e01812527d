//! The project's own commands, `cargo xtask COMMAND`: [`HELP`] lists them.
#![forbid(unsafe_code)]

mod arrows;
mod build;
mod check;
mod compare;
mod console;
mod etcd;
mod machine;
mod modules;
mod programs;
mod schema;
mod soak;
mod tidy;

use std::process::ExitCode;

use anyhow::Result;

const HELP: &str = "\
cargo xtask up [FLAGS]   set up this machine, build, and run `tiphys up` (--demo deploys the demo);
                         with --quick-build the binary is not optimised, and there much sooner
cargo xtask build        build the static release binary
cargo xtask fast CRATE   while working on CRATE: clippy of it and what depends on it, its tests,
                         and a binary to try
cargo xtask test         all tests, long ones in their short form
cargo xtask soak         the long tests in full
cargo xtask soak storms  simulated clusters of ten thousand seeds (--seeds A..B, --seed N,
                         --processes N; --wide: those with more kinds of things,
                         --gangs: with gangs and zones besides)
cargo xtask soak rolling one check of a cluster, again and again (--times N, else 20): rolling updates
                         under load, whose requests and failures are counted; `takeover` lets nodes
                         die that hold a load balancer's address
cargo xtask check        format, clippy, arrows between crates and files, tidiness, licences, and
                         dependencies that nobody uses
cargo xtask tidy         arrows and tidiness alone: needs no build
cargo xtask circles      which files use each other in a circle
cargo xtask bench        figures of speed and memory (a group alone: bench GROUP; --quick)
cargo xtask compare      discovery and OpenAPI against published documents, given as paths; with
                         --golden every form of objects against upstream's golden files
cargo xtask etcd         get an etcd for the tests, where the machine has none
cargo xtask programs     get the clients of other languages that tests run
cargo xtask console      build the console's page again from its sources (needs Node.js)
cargo xtask schema       make the schema table again from its sources
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.split_first() {
        Some((command, rest)) => run(command, rest),
        None => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &str, rest: &[String]) -> Result<()> {
    match command {
        "up" => build::up(rest),
        "build" => build::release().map(|path| println!("{}", path.display())),
        "fast" => check::fast(rest),
        "test" => check::test(),
        "soak" => match rest.split_first() {
            Some((what, rest)) if what == "storms" => soak::storms(rest),
            Some((what, rest)) => soak::repeated(what, rest),
            None => check::soak(),
        },
        "check" => check::check(),
        "tidy" => check::tidy(),
        "circles" => modules::print(),
        "etcd" => machine::test_tools()
            .and_then(|folder| etcd::prepare(&folder))
            .map(|path| println!("{}", path.display())),
        "programs" => machine::prepare_programs().map(|folder| println!("{}", folder.display())),
        "bench" => build::bench(rest),
        "console" => console::build(),
        "compare" => compare::run(rest),
        "schema" => schema::run(rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => anyhow::bail!("there is no command {other:?}\n\n{HELP}"),
    }
}
