//! That everybody can use the console: by what axe finds, in both themes, on a phone, and with the
//! rights that one has.

use anyhow::{Result, ensure};
use serde_json::json;
use tests::Context;
use tests::command::eventually;
use tests::context::{pod, service, web};

use crate::browser::{Browser, Rules};
use crate::page::{address, choose_namespace, go, quiet};
use crate::story::talker;

/// Screens by their width and height, and whether they are a phone's.
const SCREENS: [(&str, (u32, u32, bool)); 2] =
    [("desk", (1280, 860, false)), ("phone", (390, 844, true))];
const THEMES: [&str; 2] = ["light", "dark"];

/// All pages with what each shows when it is there.
fn places(ns: &str) -> Vec<(String, &'static str)> {
    let own = |place: &str| place.replace("NS", ns);
    [
        ("", "What is used"),
        ("nodes", "node-1"),
        ("nodes/node-1", "Conditions"),
        ("workloads", "web"),
        ("workloads/deployments/NS/web", "Its pod is available."),
        ("workloads/deployments/NS/web?tab=yaml", "Review changes"),
        ("pods", "web-"),
        ("pods/NS/talker", "Containers"),
        ("pods/NS/talker?tab=logs", "line 1"),
        ("pods/NS/talker?tab=terminal", "/ #"),
        ("pods/NS/talker?tab=yaml", "Review changes"),
        ("pods/NS/broken", "keeps ending"),
        ("services", "front"),
        ("pods/NS/none", "There is no pod none"),
        ("services/NS/front", "Endpoints"),
        ("services/NS/front?tab=yaml", "Review changes"),
        ("storage", "waits-for-a-pod"),
        ("kinds", "CustomResourceDefinition"),
        ("k/core/configmaps", "kube-root-ca.crt"),
        ("o/core/v1/configmaps/NS/kube-root-ca.crt", "Annotations"),
        ("o/core/v1/nodes/node-1?tab=yaml", "Review changes"),
        ("no-such-page", "There is no such page"),
    ]
    .map(|(place, shows)| (own(place), shows))
    .into()
}

pub fn everybody_can_use_it_in_light_and_dark_and_on_a_phone(cx: &Context) -> Result<()> {
    cx.apply_json(&web("web", 1))?;
    cx.apply_json(&service("front", "web", "ClusterIP"))?;
    cx.apply_json(&talker())?;
    cx.apply_json(&pod("broken", "echo no config at /etc/app; exit 3"))?;
    cx.apply_json(&json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": { "name": "waits-for-a-pod" },
        "spec": { "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "10Mi" } } },
    }))?;
    cx.wait_rollout("deployment/web")?;
    cx.wait_ready("talker")?;
    cx.wait_endpoints("front", 1)?;
    let mut page = Browser::start()?;
    page.open(&format!("{}/console/", cx.cluster.server_url()))?;
    page.until_shown("Sign in to this cluster.")?;
    each_look(&mut page, |page, look, rules| {
        fits_and_is_usable(page, "sign-in", rules)?;
        page.picture(&format!("{look}-sign-in"))
    })?;
    page.resize(1280, 860, false)?;
    page.open(&address(cx, &[])?)?;
    page.until_shown("What is used")?;
    page.picture("signed-in")?;
    choose_namespace(&mut page, &cx.ns)?;
    each_look(&mut page, |page, look, rules| {
        all_places(cx, page, look, rules)
    })?;
    by_keyboard(&mut page)?;
    quiet(&mut page)
}

/// In both themes, each on a desk and on a phone: the first look is at everything.
fn each_look(
    page: &mut Browser,
    mut see: impl FnMut(&mut Browser, &str, Rules) -> Result<()>,
) -> Result<()> {
    let mut rules = Rules::All;
    for theme in THEMES {
        page.prefer(theme)?;
        let is = format!("document.documentElement.dataset.theme === '{theme}'");
        page.until(theme, &is)?;
        for (screen, (width, height, phone)) in SCREENS {
            page.resize(width, height, phone)?;
            see(page, &format!("{theme}-{screen}"), rules)?;
            rules = Rules::OfLooks;
        }
    }
    Ok(())
}

/// By axe, which looks at contrast, too; and nothing is wider than the screen.
fn fits_and_is_usable(page: &mut Browser, place: &str, rules: Rules) -> Result<()> {
    page.axe(rules)?;
    let over = "document.documentElement.scrollWidth - innerWidth";
    page.until(
        &format!("{place} is not wider than the screen"),
        &format!("{over} <= 0"),
    )
}

fn all_places(cx: &Context, page: &mut Browser, look: &str, rules: Rules) -> Result<()> {
    for (place, shows) in places(&cx.ns) {
        go(page, &place)?;
        page.until_shown(shows)?;
        fits_and_is_usable(page, &place, rules)?;
        let shot = match place.as_str() {
            "" => "overview".to_owned(),
            // Its own namespace has another name each time.
            place => place
                .replace(&format!("{}/", cx.ns), "")
                .replace(['/', '?', '='], "-"),
        };
        page.picture(&format!("{look}-{shot}"))?;
    }
    Ok(())
}

/// Without a mouse: to a page, through its rows, into one, and by the search to another kind.
fn by_keyboard(page: &mut Browser) -> Result<()> {
    page.resize(1280, 860, false)?;
    page.value("document.activeElement.blur()")?;
    // The second key has to follow soon: where it comes late, both are pressed again.
    eventually("the pods are shown", || {
        page.press("g")?;
        page.press("p")?;
        let place = page.value("location.hash")?;
        ensure!(place == "#/pods", "it is {place}");
        Ok(())
    })?;
    // Its own rows, not those of the page before.
    page.until(
        "rows are shown",
        "!!document.querySelector('tbody tr a[href^=\"#/pods/\"]')",
    )?;
    // A row that goes takes the focus along.
    eventually("a row has the focus", || {
        page.press("j")?;
        let focus = page.value("!!document.activeElement.closest('tbody tr')")?;
        ensure!(focus == true, "it is {focus}");
        Ok(())
    })?;
    page.press("Enter")?;
    page.until("the pod is shown", "location.hash.startsWith('#/pods/')")?;
    page.press("/")?;
    page.until(
        "the search is open",
        "!!document.querySelector('dialog[open]')",
    )?;
    page.axe(Rules::All)?;
    page.write("kube-root-ca")?;
    page.until(
        "the object is found",
        "document.querySelector('#hits')?.innerText.includes('kube-root-ca.crt')",
    )?;
    page.picture("search")?;
    page.press("Enter")?;
    page.until(
        "the object is shown",
        "location.hash.includes('configmaps') && !document.querySelector('dialog[open]')",
    )
}

pub fn who_may_see_one_namespace_sees_just_that(cx: &Context) -> Result<()> {
    cx.apply_json(&web("web", 1))?;
    cx.wait_rollout("deployment/web")?;
    cx.kubectl("create serviceaccount reader")?;
    let account = format!("{}:reader", cx.ns);
    cx.kubectl(&format!(
        "create rolebinding reader --clusterrole=view --serviceaccount={account}"
    ))?;
    let mut page = Browser::start()?;
    page.resize(1280, 860, false)?;
    nothing_is_kept(cx, &mut page)?;
    // By hand, with a token that is none and one that is good.
    page.until_shown("Sign in to this cluster.")?;
    page.fill("#token", "nonsense")?;
    page.click("Sign in")?;
    page.until_shown("does not accept this token")?;
    let token = cx.kubectl("create token reader")?;
    page.complaints()?;
    page.fill("#token", token.trim())?;
    page.click("Sign in")?;
    page.until_shown("running pod")?;
    let nav = "document.querySelector('nav.side').innerText";
    page.until(
        "it offers what may be seen",
        &format!("{nav}.includes('Pods') && !{nav}.includes('Nodes')"),
    )?;
    go(&mut page, "pods")?;
    page.until_shown("web-")?;
    let shown = page.shown()?;
    ensure!(
        !shown.contains("coredns") && !shown.contains("kube-system"),
        "{shown}"
    );
    go(&mut page, &format!("workloads/deployments/{}/web", cx.ns))?;
    page.until_shown("Its pod is available.")?;
    let shown = page.shown()?;
    ensure!(
        !shown.contains("Scale…") && !shown.contains("Delete…"),
        "{shown}"
    );
    page.axe(Rules::All)?;
    page.picture("reader")?;
    go(&mut page, "nodes")?;
    page.until_shown("You have no right to see nodes here")?;
    page.axe(Rules::All)?;
    // An administrator after him, in the same page: a token of another role opens what it may see.
    page.open(&address(cx, &[])?)?;
    page.until_shown("What is used")?;
    page.until("it offers nodes, too", &format!("{nav}.includes('Nodes')"))?;
    another_tab_chooses(&mut page)?;
    let scripts: Vec<_> = page
        .complaints()?
        .into_iter()
        .filter(|c| !c.contains("Failed to load resource"))
        .collect();
    ensure!(scripts.is_empty(), "{scripts:#?}");
    Ok(())
}

/// A browser that forbids pages to keep anything throws wherever they try: one signs in all the same.
fn nothing_is_kept(cx: &Context, page: &mut Browser) -> Result<()> {
    let forbidden = "for (const area of ['sessionStorage', 'localStorage']) \
        Object.defineProperty(window, area, { get() { throw new DOMException('no', 'SecurityError'); } });";
    let script = page.ask(
        "Page.addScriptToEvaluateOnNewDocument",
        json!({ "source": forbidden }),
    )?;
    page.open(&format!("{}/console/", cx.cluster.server_url()))?;
    page.until_shown("lets the page keep nothing")?;
    let identifier = json!({ "identifier": script["identifier"] });
    page.ask("Page.removeScriptToEvaluateOnNewDocument", identifier)?;
    page.ask("Page.reload", json!({}))?;
    page.until_shown("It stays in this tab.")
}

/// What is chosen in one document of the browser all others take up: here an empty one in the page.
fn another_tab_chooses(page: &mut Browser) -> Result<()> {
    for theme in ["dark", "light"] {
        page.value(&format!(
            "(() => {{ const other = document.createElement('iframe'); document.body.append(other); \
             other.contentWindow.localStorage.setItem('tiphys.theme', '{theme}'); other.remove(); }})()"
        ))?;
        let is = format!("document.documentElement.dataset.theme === '{theme}'");
        page.until(&format!("{theme} is taken up"), &is)?;
    }
    Ok(())
}
