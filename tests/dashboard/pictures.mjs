// Makes the pictures of the README from a running lab: before, while a region is lost, and after.
//
//   node pictures.mjs URL-WITH-TOKEN DIRECTORY-FOR-PICTURES

import { join } from "node:path";
import { launch } from "./browser.mjs";

const [url, pictures] = process.argv.slice(2);
const within = { timeout: 900_000 };
/** So much of the past is in the charts before something breaks. */
const QUIET_MS = 100_000;

const browser = await launch();
const page = await browser.newPage({ viewport: { width: 1440, height: 1150 }, deviceScaleFactor: 1.5, reducedMotion: "reduce" });
await page.goto(`${new URL(url).origin}/${new URL(url).hash}`);
await page.getByRole("link", { name: "orders", exact: true }).click();
await page.waitForSelector(".facts .pill.healthy", within);

/** The head, the map, the story and the first charts, without what can be ordered. */
async function picture(name) {
  await page.evaluate(() => {
    for (const one of document.querySelectorAll(".demo-card, .reasons, .more")) one.hidden = true;
    scrollTo(0, 0);
  });
  const box = await page.locator(".cluster").boundingBox();
  const charts = await page.locator(".chart-card").first().boundingBox();
  const clip = { x: box.x - 16, y: box.y - 12, width: box.width + 32, height: charts.y + charts.height - box.y + 24 };
  await page.screenshot({ path: join(pictures, `${name}.png`), clip, fullPage: true });
  await page.evaluate(() => {
    for (const one of document.querySelectorAll(".demo-card, .reasons, .more")) one.hidden = false;
  });
}

const button = (name) => page.getByRole("button", { name, exact: true });
await button("Start traffic").click();
await page.waitForTimeout(QUIET_MS);
await page.waitForSelector(".facts .pill.healthy", within);
await picture("before");

await button("Lose the primary region").click();
await page.waitForSelector(".facts .pill.promoting, .facts .pill.rerouting", within);
await picture("during");

await page.waitForSelector(".facts .pill.stable", within);
await page.waitForTimeout(3_000);
await button("Heal everything").click();
await page.waitForSelector(".facts .pill.healthy", within);
await page.waitForTimeout(5_000);
await page.emulateMedia({ colorScheme: "dark", reducedMotion: "reduce" });
await page.waitForTimeout(1_500);
await picture("after");
await browser.close();
