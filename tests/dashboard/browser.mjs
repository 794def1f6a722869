// A browser for the tests and the pictures of the dashboard. playwright-core and axe-core are found in
// $AURORA_FAILOVER_TOOLS/node_modules, the browser by $CHROMIUM.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const tools = createRequire(join(process.env.AURORA_FAILOVER_TOOLS, "x.js"));
const { chromium } = tools("playwright-core");

/** The source of axe, to be run in a page. */
export const axe = readFileSync(tools.resolve("axe-core/axe.min.js"), "utf8");

/** Starts it. */
export const launch = () => chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });

/** Carries steps out, one after the other, until one fails; says how each went. True when all went well. */
export async function carryOut(steps, afterEach, failed) {
  for (const [name, step] of Object.entries(steps)) {
    const began = Date.now();
    try {
      await step();
      afterEach();
      console.log(`ok        ${name} (${Date.now() - began} ms)`);
    } catch (error) {
      console.log(`FAILED    ${name}: ${error.message}`);
      await failed();
      return false;
    }
  }
  return true;
}
