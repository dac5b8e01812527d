//! What the checks of the page have in common: signing in, going about, and that it has not complained.

use anyhow::{Context as _, Result, ensure};
use tests::{Context, command};

use crate::browser::Browser;

/// The address that `tiphys console` prints.
pub fn address(cx: &Context, args: &[&str]) -> Result<String> {
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
pub fn signed_in(cx: &Context) -> Result<Browser> {
    let mut browser = Browser::start()?;
    browser.resize(1280, 860, false)?;
    browser.open(&address(cx, &[])?)?;
    browser.until_shown("Overview")?;
    choose_namespace(&mut browser, &cx.ns)?;
    Ok(browser)
}

pub fn choose_namespace(browser: &mut Browser, namespace: &str) -> Result<()> {
    let script = format!(
        "(() => {{ const field = document.querySelector('.namespace select'); \
         if (![...(field?.options ?? [])].some((o) => o.value === '{namespace}')) return false; \
         field.value = '{namespace}'; \
         field.dispatchEvent(new Event('change', {{ bubbles: true }})); return true; }})()"
    );
    browser.until("the namespace can be chosen", &script)
}

/// Goes to a place in the page.
pub fn go(browser: &mut Browser, place: &str) -> Result<()> {
    browser
        .value(&format!("location.hash = '#/{place}'"))
        .map(drop)
}

/// The page has said nothing wrong.
pub fn quiet(browser: &mut Browser) -> Result<()> {
    let complaints = browser.complaints()?;
    ensure!(complaints.is_empty(), "{complaints:#?}");
    Ok(())
}
