//! The web page of an agent, in a real browser on a real cluster: what a reader sees, what an operator does there, and what no page of
//! anybody else's can do.

use serde_json::{Value, json};

use super::support::browser::{self, Browser};
use super::support::lab::{Lab, Setup, in_lab};
use super::support::wait_for;
use super::{founded_with, others};

const USER: &str = "admin";
const PASSWORD: &str = "sesame, öffne dich";
/// What a member could be told to say of itself.
const MARKUP: &str = "<img src=x onerror=\"document.title='hacked'\">";

#[test]
fn an_operator_sees_the_cluster_in_a_browser_and_acts_on_it() {
    if !browser::available() {
        println!("not run: chromium and chromium-driver are not installed");
        return;
    }
    in_lab(&Setup::default(), async |lab| {
        tag_with_markup(lab);
        let login = [("TENURE_RESTAPI_USERNAME", USER), ("TENURE_RESTAPI_PASSWORD", PASSWORD)];
        let leader = founded_with(lab, &login).await;
        let [next, reader] = others(leader)[..] else { panic!("three members") };
        let browser = Browser::open(&lab.hub).await;
        browser.resize(1280, 900, false).await;
        browser.visit(&page(lab, leader)).await;
        browser.eval("window.loadedOnce = true").await;

        everybody_is_shown(lab, &browser, leader).await;
        text_stays_text(lab, &browser).await;
        the_rules_are_asked(lab, &browser, next).await;
        keys_are_enough(&browser).await;
        the_password_is_asked_for(lab, &browser).await;
        what_changes_is_shown(lab, &browser).await;
        a_switchover(lab, &browser, leader, next).await;
        it_looks_good(&browser).await;
        assert_eq!(browser.eval("window.loadedOnce").await, true, "the page was loaded anew");
        // The browser notes the refusal itself; nothing else may have gone wrong.
        let complaints = browser.complaints().await;
        assert!(complaints.iter().all(|line| line.contains("401 (Unauthorized)")), "{complaints:#?}");

        the_page_outlives_its_agent(lab, &browser, leader, &login).await;
        no_other_page_may_act(lab, &browser, leader, reader).await;
        only_reading(lab, &browser, reader, &login).await;
    });
}

fn page(lab: &Lab, node: usize) -> String {
    format!("http://{}:8008/ui", lab.nodes[node].address)
}

fn tag_with_markup(lab: &Lab) {
    for node in &lab.nodes {
        let path = node.dir.join("tenure.yml");
        let text = std::fs::read_to_string(&path).expect("our own file");
        let tags = json!({"note": MARKUP});
        std::fs::write(&path, format!("{text}tags: {tags}\n")).expect("our own file");
    }
}

fn card(lab: &Lab, node: usize, part: &str) -> String {
    format!("[data-member='{}'] > .card {part}", lab.nodes[node].name)
}

async fn everybody_is_shown(lab: &Lab, browser: &Browser, leader: usize) {
    browser.until("three members", "document.querySelectorAll('.card').length === 3").await;
    let leads = &lab.nodes[leader].name;
    wait_for("what the leader does", async || {
        let sentence = browser.text(&card(lab, leader, ".sentence")).await;
        sentence.contains("leading").then_some(())
    })
    .await;
    assert!(browser.text("#summary").await.starts_with(&format!("led by {leads} · 3 members")));
    for node in others(leader) {
        let follows = format!("following {leads}");
        wait_for("what a replica does", async || {
            let (state, sentence) = (
                browser.text(&card(lab, node, ".state")).await,
                browser.text(&card(lab, node, ".sentence")).await,
            );
            (state.contains("streaming") && state.contains(" behind") && sentence.contains(&follows))
                .then_some(())
        })
        .await;
        // In the tree they stand below whom they follow.
        let below = format!(
            "document.querySelector(\"[data-member='{leads}'] [data-member='{}']\")",
            lab.nodes[node].name
        );
        browser.until("the tree", &below).await;
        let link =
            browser.eval(&format!("document.querySelector({:?}).href", card(lab, node, ".elsewhere"))).await;
        assert_eq!(link, page(lab, node).as_str());
    }
    browser.until("the stream", "document.querySelector('#link').className === 'link on'").await;
    let two_points = "document.querySelector('#rate-plot path.line')?.getAttribute('d').includes('L')";
    browser.until("a line of the write rate", two_points).await;
    let two_lines = "document.querySelectorAll('#lag-plot .canvas path.line').length === 2";
    browser.until("two lines of lag", two_lines).await;
    browser.until("decisions of everybody", "document.querySelectorAll('#events .whose').length > 3").await;
}

async fn text_stays_text(lab: &Lab, browser: &Browser) {
    for node in 0..lab.nodes.len() {
        let chips = browser.text(&card(lab, node, ".chips")).await;
        assert!(chips.contains(&format!("note: {MARKUP}")), "{chips}");
    }
    assert_eq!(browser.eval("document.querySelectorAll('img').length").await, 0);
    let title = browser.eval("document.title").await;
    assert!(title.as_str().is_some_and(|title| title.ends_with(" · lab · Tenure")), "{title}");
}

async fn the_rules_are_asked(lab: &Lab, browser: &Browser, next: usize) {
    browser.click("[data-if='primary-lost']").await;
    wait_for("what would happen", async || {
        let told = browser.text("#if-told").await;
        (told.contains("were lost now:") && told.contains("until somebody holds the lease")).then_some(())
    })
    .await;
    let to = &lab.nodes[next].name;
    browser.eval(&format!("document.querySelector('#if-member').value = {to:?}")).await;
    browser.click("[data-if='switchover']").await;
    wait_for("what a switchover would do", async || {
        browser
            .text("#if-told")
            .await
            .contains(&format!("and {to} would lead; nothing is lost"))
            .then_some(())
    })
    .await;
    browser.click("#doctor-ask").await;
    wait_for("what the doctor finds", async || {
        let told = browser.text("#doctor-told").await;
        // The lab's own files are readable for everybody: they hold passwords.
        (told.contains("secret_readable") && told.contains("chmod o-r") && told.contains("found nothing"))
            .then_some(())
    })
    .await;
    let told = browser.text("#doctor-told").await;
    assert!(told.contains(", 0 unknown."), "{told}");
}

async fn keys_are_enough(browser: &Browser) {
    browser.eval("document.activeElement.blur()").await;
    browser.eval("document.querySelector('[data-act=reload]').focus()").await;
    browser.press("Enter", 13, "\r").await;
    browser.until("a dialog", "document.querySelector('#dialog').open").await;
    let inside = "document.querySelector('#dialog').contains(document.activeElement)";
    assert_eq!(browser.eval(inside).await, true);
    browser.press("Escape", 27, "").await;
    browser.until("the dialog's end", "!document.querySelector('#dialog').open").await;
    let back = "document.activeElement.matches('[data-act=reload]')";
    assert_eq!(browser.eval(back).await, true);
}

const SUBMIT: &str = "#dialog-do";

async fn log_in(browser: &Browser, password: &str) {
    browser
        .until("the question who it is", "document.querySelector('#dialog-body input[type=password]')")
        .await;
    browser.type_into("#dialog-body input[autocomplete=username]", USER).await;
    browser.type_into("#dialog-body input[type=password]", password).await;
    browser.click(SUBMIT).await;
}

async fn the_password_is_asked_for(lab: &Lab, browser: &Browser) {
    assert!(browser.text("#login-note").await.contains("asks for the password"));
    browser.click("[data-act=pause]").await;
    browser.type_into("#dialog-body input", "<b>Rück</b>bau").await;
    browser.click(SUBMIT).await;
    log_in(browser, "swordfish").await;
    browser.until("a second question", "document.querySelector('#dialog-body .refused')").await;
    assert!(!is_paused(lab), "a wrong password was enough");
    log_in(browser, PASSWORD).await;
    browser.until("the answer", "document.querySelector('#dialog-said').textContent === 'Done.'").await;
    browser.click("#dialog-cancel").await;
    wait_for("the pause on the page", async || {
        let alerts = browser.text("#alerts").await;
        alerts
            .contains(&format!("Maintenance mode: nothing fails over by itself, by {USER}: <b>Rück</b>bau."))
            .then_some(())
    })
    .await;
    assert!(is_paused(lab));
    browser.picture("maintenance", false).await;
}

fn is_paused(lab: &Lab) -> bool {
    let (_, text) = lab.nodes[0].request("GET", "/config", "").expect("an answer");
    serde_json::from_str::<Value>(&text).is_ok_and(|config| config["pause"] == true)
}

/// Somebody else ends the pause; the page hears of it.
async fn what_changes_is_shown(lab: &Lab, browser: &Browser) {
    let file = lab.nodes[0].dir.join("tenure.yml").display().to_string();
    let mut command = lab.hub.command(env!("CARGO_BIN_EXE_tenurectl"));
    command.env("TENURE_RESTAPI_USERNAME", USER).env("TENURE_RESTAPI_PASSWORD", PASSWORD);
    let output = command.args(["-c", &file, "resume"]).output().expect("a command that was built");
    assert!(output.status.success(), "{output:?}");
    browser
        .until(
            "the end of the pause",
            "!document.querySelector('#alerts').textContent.includes('Maintenance mode')",
        )
        .await;
    browser.until("the button", "!document.querySelector('[data-act=pause]').hidden").await;
}

async fn a_switchover(lab: &Lab, browser: &Browser, leader: usize, next: usize) {
    let to = &lab.nodes[next].name;
    browser.click("[data-act=switchover]").await;
    let choose = format!(
        "(() => {{ const list = document.querySelector('#dialog-body select'); list.value = {to:?}; \
         list.dispatchEvent(new Event('change')); return list.value; }})()"
    );
    assert_eq!(browser.eval(&choose).await, to.as_str());
    wait_for("what would come of it", async || {
        browser.text("#dialog-body pre").await.contains(&format!("and {to} would lead")).then_some(())
    })
    .await;
    browser.picture("switchover", false).await;
    browser.click(SUBMIT).await;
    wait_for("the answer", async || {
        let said = browser.text("#dialog-said").await;
        assert!(!said.starts_with("Refused"), "{said}");
        said.contains("Successfully switched over").then_some(())
    })
    .await;
    browser.click("#dialog-cancel").await;
    wait_for("the new leader on the page", async || {
        browser.text("#summary").await.starts_with(&format!("led by {to} ")).then_some(())
    })
    .await;
    assert_eq!(lab.healthy().await, next);
    wait_for("what the new leader does", async || {
        browser.text(&card(lab, next, ".sentence")).await.starts_with("leading ").then_some(())
    })
    .await;
    let below = format!(
        "document.querySelector(\"[data-member='{to}'] [data-member='{}']\")",
        lab.nodes[leader].name
    );
    browser.until("the tree the other way round", &below).await;
    wait_for("the change of the leader", async || {
        let changes = browser.text("#changes").await;
        let way = format!("{} → {to} (switchover, timeline 2", lab.nodes[leader].name);
        changes.contains(&way).then_some(())
    })
    .await;
}

async fn it_looks_good(browser: &Browser) {
    browser.eval("document.querySelector('#changes details').open = true").await;
    browser.eval("document.querySelector('.card details').open = true").await;
    browser.picture("desktop-light", true).await;
    let ground = "getComputedStyle(document.body).backgroundColor";
    let light = browser.eval(ground).await;
    browser.prefer("dark").await;
    browser.until("another ground", &format!("{ground} !== {light}")).await;
    browser.picture("desktop-dark", true).await;
    browser.resize(360, 740, true).await;
    browser.until("a narrow page", "document.documentElement.clientWidth === 360").await;
    nothing_sticks_out(browser).await;
    browser.picture("phone-dark", true).await;
    browser.prefer("light").await;
    browser.click("[data-act=switchover]").await;
    browser.until("a dialog", "document.querySelector('#dialog').open").await;
    nothing_sticks_out(browser).await;
    browser.picture("phone-dialog", false).await;
    browser.click("#dialog-cancel").await;
    browser.picture("phone-light", true).await;
    browser.resize(1280, 900, false).await;
}

async fn nothing_sticks_out(browser: &Browser) {
    assert_eq!(browser.eval("document.documentElement.scrollWidth").await, 360);
    let wide = "[...document.querySelectorAll('body *')]\
                .filter((one) => one.getClientRects().length > 0 && !one.closest('.scroll, .skip, .spoken'))\
                .filter((one) => one.getBoundingClientRect().right > 360.5).map((one) => one.outerHTML.slice(0, 100))";
    assert_eq!(browser.eval(wide).await, json!([]));
}

async fn the_page_outlives_its_agent(lab: &mut Lab, browser: &Browser, node: usize, login: &[(&str, &str)]) {
    lab.nodes[node].kill_agent();
    browser
        .until("silence", "document.querySelector('#link-text').textContent.startsWith('no word for ')")
        .await;
    lab.nodes[node].start_agent_with(login);
    browser.until("the stream", "document.querySelector('#link').className === 'link on'").await;
    lab.healthy().await;
}

/// A page of one member, asked to act on another one, as any page of the web could try.
async fn no_other_page_may_act(lab: &Lab, browser: &Browser, from: usize, to: usize) {
    let url = format!("http://{}:8008/reload", lab.nodes[to].address);
    browser.visit(&page(lab, from)).await;
    // Our own page may not even ask; a page with less care may.
    let ours =
        format!("fetch({url:?}, {{method: 'POST', mode: 'no-cors'}}).then(() => 'sent', () => 'blocked')");
    assert_eq!(browser.eval(&ours).await, "blocked");
    browser.visit(&format!("http://{}:8008/liveness", lab.nodes[from].address)).await;
    assert_eq!(browser.eval(&ours).await, "sent");
    let refused = "POST /reload from a browser was refused";
    wait_for("the refusal in the log", async || lab.nodes[to].log().contains(refused).then_some(())).await;
    browser.complaints().await;
}

async fn only_reading(lab: &mut Lab, browser: &Browser, node: usize, login: &[(&str, &str)]) {
    lab.nodes[node].end_agent();
    let variables = [login, &[("TENURE_TENURE_UI", "read-only")]].concat();
    lab.nodes[node].start_agent_with(&variables);
    lab.healthy().await;
    browser.visit(&page(lab, node)).await;
    browser.until("three members", "document.querySelectorAll('.card').length === 3").await;
    assert_eq!(browser.eval("document.querySelector('#act').getClientRects().length").await, 0);
    // Nor can anybody make it act who knows how.
    let act =
        "fetch('reload', {method: 'POST', headers: {'tenure-page': '1'}}).then((answer) => answer.status)";
    assert_eq!(browser.eval(act).await, 403);
    let complaints = browser.complaints().await;
    assert!(complaints.iter().all(|line| line.contains("403 (Forbidden)")), "{complaints:#?}");
}
