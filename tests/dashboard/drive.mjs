// Drives the dashboard of a running lab in a real browser, as people use it: both demonstrations, orders by keyboard, a
// refused order, an approval, a killed controller, narrow and wide screens, and axe on every page.
//
//   node drive.mjs URL-WITH-TOKEN DIRECTORY-FOR-PICTURES
//
// See browser.mjs for what it needs.

import assert from "node:assert/strict";
import { join } from "node:path";
import { axe, carryOut, launch } from "./browser.mjs";

const [url, pictures] = process.argv.slice(2);
const within = { timeout: 60_000 };

const browser = await launch();
const page = await browser.newPage({ viewport: { width: 1440, height: 1000 } });
const complaints = [];
let away = false;
let rto = "";
page.on("pageerror", (error) => complaints.push(error.message));
page.on("console", (message) => {
  if (message.type() === "error" && !away) complaints.push(message.text());
});
page.on("request", (request) => {
  if (!request.url().startsWith(new URL(url).origin) && !request.url().startsWith("data:")) complaints.push(`asks elsewhere: ${request.url()}`);
});

const state = (name) => page.waitForSelector(`.facts .pill.${name}`, within);
const button = (name) => page.getByRole("button", { name, exact: true });
const choice = (name) => page.getByRole("combobox", { name, exact: true });
const fact = async (name) => page.locator(".facts div", { hasText: name }).locator("dd").first().textContent();
const until = async (what, check, timeout = 60_000) => {
  const began = Date.now();
  for (;;) {
    const found = await check();
    if (found) return found;
    if (Date.now() - began > timeout) assert.fail(`${what} did not come within ${timeout} ms: ${await page.locator("main").innerText()}`);
    await page.waitForTimeout(100);
  }
};
const writer = async () => (await page.locator("svg.map").textContent()).match(/([ab][12]): writer/)?.[1];
const writes = async () => Number((await page.getByText(/^\d+ writes acknowledged/).textContent()).match(/^(\d+)/)?.[1]);
const wider = () => page.locator("details.wider").evaluate((more) => { more.open = true; });
const picture = (name, options = {}) => page.screenshot({ path: join(pictures, `${name}.png`), ...options });

async function accessible(where) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run());
  assert.deepEqual(violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.html.slice(0, 120)).join(" | ")}`), [], `axe on ${where}`);
}

/** Gives an order as with a mouse. */
async function order(name, confirm = true) {
  await choice("order").selectOption(name);
  await page.getByLabel("your name").fill("alice");
  await page.getByLabel("reason").fill("a test in the browser");
  await button("Preview").click();
  await page.getByRole("dialog").waitFor(within);
  const outlook = await page.getByRole("dialog").innerText();
  if (!confirm) {
    await button("Cancel").click();
    return outlook;
  }
  await page.getByLabel("To confirm, type").fill("orders");
  await button("Give the order").click();
  return until("an answer", async () => {
    const said = await page.locator("section", { hasText: "Give an order" }).last().innerText();
    return /Done:|Refused:/.test(said) && said;
  });
}

/** Switches over by the demonstration's button. On a slow machine a vantage may see a failure just then: refused, and asked again. */
async function switchOver(done) {
  for (let tries = 0; tries < 5; tries += 1) {
    await state("healthy");
    await button("Switch over").click();
    for (let waited = 0; waited < 100; waited += 1) {
      if (await done()) return;
      await page.waitForTimeout(100);
    }
  }
  assert.fail(`the switchover did not begin: ${await page.locator("main").innerText()}`);
}

const steps = {
  async "the fleet is shown and leads to the cluster"() {
    await page.goto(url);
    await page.getByRole("heading", { name: "Fleet" }).waitFor(within);
    assert.equal(await page.evaluate(() => location.hash), "#/", "the token does not stay in the address");
    await accessible("the fleet");
    // Whoever is on a row with the keyboard stays there, and the row goes on telling.
    const link = page.getByRole("link", { name: "orders", exact: true });
    await link.focus();
    const lag = page.locator("table.fleet tbody tr").first().locator("td").nth(6);
    const before = await lag.textContent();
    await until("another lag", async () => (await lag.textContent()) !== before);
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "orders");
    await page.getByRole("link", { name: "orders" }).click();
    await state("healthy");
    await accessible("a cluster");
    // What did not change is not read out again, and what somebody opened stays open.
    const opened = page.locator("ol.story details").first();
    if (await opened.count()) await opened.evaluate((one) => { one.open = true; one.id = "opened"; });
    const news = await page.evaluate(() => new Promise((resolve) => {
      let count = 0;
      const seen = new MutationObserver((changes) => { count += changes.length; });
      for (const place of document.querySelectorAll("[role=alert]")) seen.observe(place, { childList: true, subtree: true, characterData: true });
      setTimeout(() => resolve(count), 3000);
    }));
    if (await page.locator("#opened").count()) assert.ok(await page.locator("#opened").evaluate((one) => one.open), "the details are open");
    assert.ok(news <= 4, `alerts changed ${news} times in a quiet time`);
  },
  async "without a token the page shows and cannot order"() {
    const other = await browser.newPage();
    await other.goto(`${new URL(url).origin}/#/cluster/orders`);
    await other.waitForSelector(".facts .pill", within);
    assert.equal(await other.getByRole("button", { name: "Preview" }).count(), 0);
    const status = await other.evaluate(async () => (await fetch("/api/demo", { method: "POST", body: "{}" })).status);
    assert.equal(status, 401);
    await other.close();
  },
  async "narrow and wide screens hold everything"() {
    for (const [name, width, height] of [["narrow", 390, 844], ["wide", 2560, 1440]]) {
      await page.setViewportSize({ width, height });
      await page.waitForTimeout(300);
      assert.ok(await page.evaluate(() => document.scrollingElement.scrollWidth <= innerWidth), `${name}: nothing sticks out`);
      if (name === "wide") assert.ok(await page.evaluate(() => document.scrollingElement.scrollHeight <= innerHeight), "a wall needs no scrolling");
      await picture(name, { fullPage: true });
    }
    await page.setViewportSize({ width: 1440, height: 1000 });
  },
  async "demonstration one: a failover inside the region, without the proxy and with it"() {
    // Cluster and proxy are those of the first region; a slow machine may have made it fail over already.
    if ((await fact("Primary")) !== "us-east-2") await switchOver(async () => (await fact("Primary")) === "us-east-2");
    await state("healthy");
    for (const through of ["cluster", "proxy"]) {
      await choice("through").selectOption(through);
      await button("Start traffic").click();
      await page.getByText(`clients through ${through}`).waitFor(within);
      const [before, written] = [await until("a writer", writer), await writes()];
      await until("writes", async () => (await writes()) > written + 50);
      await button("Fail over inside the region").click();
      await until("another writer", async () => { const now = await writer(); return now && now !== before; });
      const then = await writes();
      await until("writes after it", async () => (await writes()) > then + 50);
      await state("healthy");
    }
  },
  async "demonstration two: a region is lost, and everything moves"() {
    await choice("through").selectOption("name");
    await button("Start traffic").click();
    await page.getByText("clients through name").waitFor(within);
    const written = await until("writes", writes);
    await until("more writes", async () => (await writes()) > written + 200);
    await button("Lose the primary region").click();
    await state("stable");
    assert.equal(await fact("Primary"), "us-west-2");
    await page.getByText("a write through the public names committed").first().waitFor(within);
    await page.locator('.reasons li[title="within-rpo"]').waitFor(within);
    await page.locator("ol.story li.fault", { hasText: "us-east-2 vanishes" }).first().waitFor(within);
    // The map shows the truth: the lost region is cut off, the name leads to the other one, and writes arrive there.
    const map = page.locator("svg.map");
    await map.locator(".region.cut").waitFor(within);
    assert.match(await map.getAttribute("aria-label"), /[ab][12]: old writer, unreachable/);
    await until("the name", async () => /→ us-west-2/.test(await map.textContent()));
    await until("writes in the other region", async () => /writes\/s acknowledged here/.test(await map.textContent()));
    const shown = await until("the recovery time", async () => { const time = await fact("Recovery time (RTO)").catch(() => ""); return /\d/.test(time ?? "") && time; });
    await accessible("a cluster after its failover");
    await picture("during");
    await button("Heal everything").click();
    await state("healthy");
    rto = shown;
  },
  async "promoted, not rerouted: the map shows that traffic still goes to the old region"() {
    const map = page.locator("svg.map");
    await wider();
    await button("Break Route 53").click();
    await page.getByText("Broken: AWS").waitFor(within);
    await switchOver(async () => /the name moves here/.test(await map.textContent()));
    assert.match(await map.textContent(), /→ us-west-2, on its way to us-east-2/);
    await button("Reset").click();
    await page.getByText("Nothing is broken.").waitFor(within);
    await until("the primary at home", async () => (await fact("Primary")) === "us-east-2" && /→ us-east-2 /.test(await map.textContent()));
    await state("healthy");
    await switchOver(async () => (await fact("Primary")) === "us-west-2");
    await state("healthy");
  },
  async "the report of the episode, and two of them side by side"() {
    const completed = page.locator(".episodes-card").getByRole("row").filter({ hasText: "completed" });
    await completed.filter({ hasText: "failover" }).first().getByRole("link").click();
    await page.getByText("Where the time went").waitFor(within);
    for (const phase of ["detect", "decide", "promote", "reroute", "verify"]) await page.getByText(phase).first().waitFor(within);
    assert.equal(await fact("Recovery time (RTO)"), rto, "one definition of the recovery time");
    await accessible("an episode");
    await page.goBack();
    await state("healthy");
    await completed.nth(2).getByRole("checkbox").check();
    await completed.nth(0).getByRole("checkbox").check();
    await page.getByRole("link", { name: "Compare these two" }).click();
    await page.getByRole("heading", { name: "Two episodes" }).waitFor(within);
    assert.equal(await page.getByRole("table").getByRole("columnheader").count(), 3, "both, and how they differ");
    await accessible("a comparison");
    await page.goBack();
    await state("healthy");
  },
  async "dark, and the history is searched"() {
    await page.emulateMedia({ colorScheme: "dark" });
    await page.getByLabel("rule", { exact: true }).fill("quorum-confirmed");
    await button("Search the history").click();
    await page.getByRole("cell", { name: "a quorum has seen the primary fail for long enough" }).first().waitFor(within);
    await page.getByLabel("rule", { exact: true }).fill("");
    await choice("outcome").selectOption("completed");
    await button("Search the history").click();
    await page.getByRole("cell", { name: /\(completed\)/ }).first().waitFor(within);
    await page.getByLabel("from (UTC)").fill("2001-01-01T00:00:00");
    await page.getByLabel("to (UTC)").fill("2001-01-02T00:00:00");
    await button("Search the history").click();
    await page.getByText("0 turns.").waitFor(within);
    await accessible("a cluster in the dark");
    await page.evaluate(() => scrollTo(0, 0));
    await picture("after");
    await page.emulateMedia({ colorScheme: "light" });
  },
  async "an order that is not possible is refused with the reason"() {
    const outlook = await order("resume", false);
    assert.match(outlook, /would be refused/);
    assert.match(await order("resume"), /Refused: /);
  },
  async "home again by an order, with nothing but the keyboard"() {
    const press = (key) => page.keyboard.press(key);
    const focused = () => page.evaluate(() => document.activeElement.closest("label")?.firstChild.textContent ?? document.activeElement.textContent);
    const reach = async (label) => {
      for (let tabs = 0; tabs < 500; tabs += 1) {
        if ((await focused()) === label) return;
        await press("Tab");
      }
      assert.fail(`Tab does not lead to ${label}`);
    };
    await page.evaluate(() => document.getElementById("main").focus());
    await reach("order");
    await page.keyboard.type("switchover");
    await reach("your name");
    await press("Control+a");
    await page.keyboard.type("bob");
    await reach("reason");
    await press("Control+a");
    await page.keyboard.type("home again");
    await press("Enter");
    await page.getByRole("dialog").waitFor(within);
    await page.keyboard.type("orders");
    await press("Enter");
    await until("the primary at home", async () => (await fact("Primary")) === "us-east-2");
    await state("healthy");
  },
  async "a scenario by its name"() {
    await wider();
    await choice("scenario").selectOption("writer-crash");
    await button("Play the scenario").click();
    await page.getByText("writer-crash: done").waitFor(within);
    await state("healthy");
  },
  async "an approval"() {
    assert.match(await order("set-mode", false), /mode/);
    await choice("mode").selectOption("approve");
    assert.match(await order("set-mode"), /Done: /);
    await button("Lose the primary region").click();
    await page.locator('.banner[data-reason="approved"]').waitFor(within);
    assert.match(await order("approve"), /Done: /);
    await state("stable");
    await button("Heal everything").click();
    await state("healthy");
  },
  async "a controller is killed: the page says so, and comes back by itself"() {
    away = true;
    await wider();
    await button("Kill the controller").click();
    await page.locator("#connection.lost").waitFor(within);
    await page.getByText("What is shown is from before").waitFor(within);
    await page.locator("#connection.live").waitFor(within);
    away = false;
    const written = await until("writes", writes);
    await until("news", async () => (await writes()) > written);
    assert.equal(await page.getByText("What is shown is from before").count(), 0);
  },
};

const good = await carryOut(steps, () => assert.deepEqual(complaints, [], "the browser has nothing to complain of"),
  () => picture("failed", { fullPage: true }).catch(() => {}));
await browser.close();
process.exit(good ? 0 : 1);
