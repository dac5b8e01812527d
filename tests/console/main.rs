//! What a person sees of a cluster: the console in a real browser, also by the keyboard, on a phone,
//! in the dark, and with few rights; and the commands that show it in a terminal.
#![forbid(unsafe_code)]

mod browser;
mod many;
mod rights;
mod story;
mod terminal;

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use browser::Browser;
use tests::runner::Suite;
use tests::{Context, Setup, checks, command, run};

fn main() -> ExitCode {
    run(&Suite {
        name: "console",
        setup: Setup::nodes(1),
        side_by_side: 1,
        checks: checks![
            terminal::status_says_what_is_wrong_first,
            terminal::top_prints_once_in_a_pipe_and_lives_in_a_terminal,
            terminal::logs_of_several_pods_are_followed_over_restarts,
            terminal::shells_complete_and_pages_are_made,
            story::a_person_sees_scales_and_repairs,
            story::yaml_is_changed_with_its_mistakes_shown_in_place,
            rights::everybody_can_use_it_in_light_and_dark_and_on_a_phone,
            rights::who_may_see_one_namespace_sees_just_that,
            many::thousands_of_pods_stay_smooth,
        ],
    })
}

/// The address that `tiphys console` prints.
fn address(cx: &Context, args: &[&str]) -> Result<String> {
    let mut command = cx.cluster.tiphys(&["console"]);
    command
        .args(args)
        .arg("--kubeconfig")
        .arg(cx.cluster.kubeconfig());
    let printed = command::run(command, "")?.ok()?;
    let address = printed.lines().next().context("it printed nothing")?;
    ensure!(
        address.starts_with(&cx.cluster.server_url()) && address.contains("/console/#token="),
        "{printed}"
    );
    Ok(address.to_owned())
}

/// A browser in which an administrator is signed in and looks at the check's namespace.
fn signed_in(cx: &Context) -> Result<Browser> {
    let mut browser = Browser::start()?;
    browser.resize(1280, 860, false)?;
    browser.open(&address(cx, &[])?)?;
    browser.until_shown("Overview")?;
    choose_namespace(&mut browser, &cx.ns)?;
    Ok(browser)
}

fn choose_namespace(browser: &mut Browser, namespace: &str) -> Result<()> {
    let script = format!(
        "(() => {{ const field = document.querySelector('.namespace select'); \
         if (![...(field?.options ?? [])].some((o) => o.value === '{namespace}')) return false; \
         field.value = '{namespace}'; \
         field.dispatchEvent(new Event('change', {{ bubbles: true }})); return true; }})()"
    );
    browser.until("the namespace can be chosen", &script)
}

/// Goes to a place in the page.
fn go(browser: &mut Browser, place: &str) -> Result<()> {
    browser
        .value(&format!("location.hash = '#/{place}'"))
        .map(drop)
}

/// The page has said nothing wrong.
fn quiet(browser: &mut Browser) -> Result<()> {
    let complaints = browser.complaints()?;
    ensure!(complaints.is_empty(), "{complaints:#?}");
    Ok(())
}
