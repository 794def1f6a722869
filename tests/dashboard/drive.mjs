// Drives the dashboard of a running lab in a real browser, as people use it: both demonstrations, orders by keyboard, a
// refused order, an approval, a killed controller, narrow and wide screens, and axe on every page.
//
//   node drive.mjs URL-WITH-TOKEN DIRECTORY-FOR-PICTURES
//
// playwright-core and axe-core are found in $AURORA_FAILOVER_TOOLS/node_modules, the browser by $CHROMIUM.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const tools = createRequire(join(process.env.AURORA_FAILOVER_TOOLS, "x.js"));
const { chromium } = tools("playwright-core");
const axe = readFileSync(tools.resolve("axe-core/axe.min.js"), "utf8");
const [url, pictures] = process.argv.slice(2);
const within = { timeout: 60_000 };

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });
const page = await browser.newPage({ viewport: { width: 1440, height: 1000 } });
const complaints = [];
let away = false;
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
const writes = async () => Number((await page.getByText(/writes acknowledged/).textContent()).match(/^(\d+)/)?.[1]);
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
  await page.getByLabel("Type orders to confirm").fill("orders");
  await button("Give the order").click();
  return until("an answer", async () => {
    const said = await page.locator("section", { hasText: "Give an order" }).last().innerText();
    return /Done:|Refused:/.test(said) && said;
  });
}

const steps = {
  async "the fleet is shown and leads to the cluster"() {
    await page.goto(url);
    await page.getByRole("heading", { name: "Fleet" }).waitFor(within);
    assert.equal(await page.evaluate(() => location.hash), "#/", "the token does not stay in the address");
    await accessible("the fleet");
    await page.getByRole("link", { name: "orders" }).click();
    await state("healthy");
    await accessible("a cluster");
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
      await picture(name, { fullPage: true });
    }
    await page.setViewportSize({ width: 1440, height: 1000 });
  },
  async "demonstration one: a failover inside the region, without the proxy and with it"() {
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
    await picture("before");
    await button("Lose the primary region").click();
    await state("stable");
    assert.equal(await fact("Primary"), "us-west-2");
    await page.getByText("a write through the public names committed").first().waitFor(within);
    await page.getByRole("listitem").filter({ hasText: "within-rpo" }).first().waitFor(within);
    await until("the recovery time", async () => /\d/.test((await fact("Recovery time (RTO)").catch(() => "")) ?? ""));
    await accessible("a cluster after its failover");
    await page.waitForTimeout(1500);
    await picture("during");
    await button("Heal everything").click();
    await state("healthy");
  },
  async "the report of the episode, and two of them side by side"() {
    await page.locator("table", { hasText: "RTO" }).getByRole("row").filter({ hasText: "completed" }).first().getByRole("link").click();
    await page.getByText("Where the time went").waitFor(within);
    for (const phase of ["detect", "decide", "promote", "reroute", "verify"]) await page.getByText(phase).first().waitFor(within);
    await accessible("an episode");
    await page.goBack();
    await state("healthy");
  },
  async "dark, and the history is searched"() {
    await page.emulateMedia({ colorScheme: "dark" });
    await page.getByLabel("rule", { exact: true }).fill("quorum-confirmed");
    await button("Search the history").click();
    await page.getByRole("cell", { name: "a quorum has seen the primary fail for long enough" }).first().waitFor(within);
    await accessible("a cluster in the dark");
    await page.evaluate(() => scrollTo(0, 0));
    await picture("after");
    await page.emulateMedia({ colorScheme: "light" });
  },
  async "an order that is not possible is refused with the reason"() {
    const outlook = await order("approve", false);
    assert.match(outlook, /would be refused/);
    assert.match(await order("approve"), /Refused: /);
  },
  async "home again by an order, with nothing but the keyboard"() {
    const press = (key) => page.keyboard.press(key);
    const focused = () => page.evaluate(() => document.activeElement.closest("label")?.firstChild.textContent ?? document.activeElement.textContent);
    const reach = async (label) => {
      for (let tabs = 0; tabs < 120; tabs += 1) {
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
    await page.locator(".banner", { hasText: "cooled-down" }).waitFor(within);
    assert.match(await order("acknowledge"), /Done: /);
    await page.locator(".banner", { hasText: "approved" }).waitFor(within);
    assert.match(await order("approve"), /Done: /);
    await state("stable");
    await button("Heal everything").click();
    await state("healthy");
  },
  async "a controller is killed: the page says so, and comes back by itself"() {
    away = true;
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

let failed = false;
for (const [name, step] of Object.entries(steps)) {
  const began = Date.now();
  try {
    await step();
    assert.deepEqual(complaints, [], "the browser has nothing to complain of");
    console.log(`ok        ${name} (${Date.now() - began} ms)`);
  } catch (error) {
    failed = true;
    console.log(`FAILED    ${name}: ${error.message}`);
    await picture("failed", { fullPage: true }).catch(() => {});
    break;
  }
}
await browser.close();
process.exit(failed ? 1 : 0);
