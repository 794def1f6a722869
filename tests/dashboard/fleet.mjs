// The page with a fleet of 500 clusters, one of them with a history of 100,000 rows, on a fast and on a slow network.
//
//   node fleet.mjs URL-WITH-TOKEN CLUSTER CLUSTERS ROWS

import assert from "node:assert/strict";
import { axe, carryOut, launch } from "./browser.mjs";

const [url, cluster, clusters, rows] = process.argv.slice(2);
const within = { timeout: 60_000 };
/** Most that a page may load before data, in bytes, as it travels. */
const ASSETS_MAX = 200_000;

const browser = await launch();
const page = await browser.newPage({ viewport: { width: 1440, height: 1000 } });
const complaints = [];
page.on("pageerror", (error) => complaints.push(error.message));
page.on("console", (message) => { if (message.type() === "error") complaints.push(message.text()); });
let loaded = 0;
page.on("requestfinished", async (request) => {
  if (!request.url().includes("/api/")) loaded += (await request.sizes()).responseBodySize;
});

const links = () => page.locator("table.fleet tbody a").count();
const turns = async () => Number((await page.locator(".search-card [role=status]").textContent()).match(/^(\d+) turns/)?.[1] ?? -1);
async function found(count) {
  await page.waitForFunction((wanted) => document.querySelector(".search-card [role=status]").textContent.startsWith(`${wanted} turns`), count, within);
}

const steps = {
  async "every cluster is a row, and one is found"() {
    await page.goto(url);
    await page.getByRole("heading", { name: "Fleet" }).waitFor(within);
    assert.equal(await links(), Number(clusters));
    assert.ok(loaded < ASSETS_MAX, `${loaded} bytes before data`);
    await page.getByLabel("Filter").fill(cluster);
    await page.waitForFunction(() => document.querySelectorAll("table.fleet tbody a").length === 1, null, within);
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => window.axe.run());
    assert.deepEqual(violations.map((one) => one.id), [], "axe");
  },
  async "a long history is paged, and searched by time"() {
    await page.getByRole("link", { name: cluster, exact: true }).click();
    await page.waitForSelector(".facts .pill", within);
    await page.getByRole("button", { name: "Search the history" }).click();
    await found(50);
    for (const more of [100, 150]) {
      await page.getByRole("button", { name: "Older" }).click();
      await found(more);
    }
    // In the middle of it: the hour is found without reading what came after it.
    const middle = Date.now() - (Number(rows) / 2) * 30_000;
    const typed = (ms) => new Date(ms).toISOString().slice(0, 19);
    await page.getByLabel("from (UTC)").fill(typed(middle));
    await page.getByLabel("to (UTC)").fill(typed(middle + 20 * 60_000));
    const began = Date.now();
    await page.getByRole("button", { name: "Search the history" }).click();
    await page.waitForFunction(() => /^(3\d|4\d) turns\./.test(document.querySelector(".search-card [role=status]").textContent), null, within);
    console.log(`          20 minutes of ${rows} rows: ${await turns()} turns in ${Date.now() - began} ms`);
  },
  async "a slow network is waited for, and the page works"() {
    const network = await page.context().newCDPSession(page);
    await network.send("Network.enable");
    await network.send("Network.emulateNetworkConditions", { offline: false, latency: 400, downloadThroughput: 50_000, uploadThroughput: 20_000 });
    const began = Date.now();
    await page.goto(`${new URL(url).origin}/?slow#/`);
    await page.getByRole("heading", { name: "Fleet" }).waitFor(within);
    assert.equal(await links(), Number(clusters));
    await page.locator("#connection.live").waitFor(within);
    console.log(`          the fleet by 400 kbit/s with 400 ms: ${Date.now() - began} ms`);
    await page.getByRole("link", { name: cluster, exact: true }).click();
    await page.waitForSelector(".facts .pill", within);
    assert.equal(await page.locator("#stale").count(), 0, "slow is not stale");
  },
};

const good = await carryOut(steps, () => assert.deepEqual(complaints, [], "the browser has nothing to complain of"), async () => {});
await browser.close();
process.exit(good ? 0 : 1);
