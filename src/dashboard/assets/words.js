// What the machine stores, in words that people say.

import { h, span } from "./dom.js";

const yes = (value) => value === "true";
const ms = (value) => (/^\d+$/.test(value) ? span(Number(value)) : value);
const count = (value, one, many = `${one}s`) => `${value} ${value === "1" ? one : many}`;

/** Each guard: its name, and a sentence of its inputs. */
const GUARDS = {
  "may-act": ["May it act?", (in_) => `mode ${in_.mode}, ${yes(in_.paused) ? "paused" : "not paused"}`],
  "can-judge": ["Can it judge?", (in_) => [
    yes(in_.proven) ? "the primary was seen healthy before" : "the primary was never seen healthy",
    yes(in_.blind) ? "too few vantages can judge" : "enough vantages can judge",
    yes(in_.ordered) && "an operator ordered it"]],
  "still-down": ["Is it still down?", (in_) => [
    `${in_.votes ? in_.votes.split(" ").join(", ") : "no vantage"} confirm${in_.votes.includes(" ") ? "" : "s"} it; ${in_.needed} of ${in_.live} live vantages are needed`,
    in_.alarm_votes !== "0" && `alarms add ${count(in_.alarm_votes, "vote")}`,
    in_.observed_votes !== "0" && `other probes add ${count(in_.observed_votes, "vote")}`,
    yes(in_.ordered) && "an operator ordered it"]],
  "target-fit": ["Who can take over?", (in_) => Object.entries(in_).map(([region, value]) => `${region}: ${value.replace(/\b(\d+) ms\b/, (_, number) => span(Number(number)))}`)],
  whole: ["Is everything whole?", (in_) => [`the primary is ${in_.primary}`, `the target is ${in_.target_synchronization}`,
    yes(in_.failover_running) ? "a move is under way" : "no move is under way"]],
  "within-rpo": ["Is the loss within bounds?", (in_) => [
    in_.lag_and_age_ms === "unknown" ? `the lag is unknown; ${ms(in_.rpo_max_ms)} may be lost` : `at most ${ms(in_.lag_and_age_ms)} can be lost; ${ms(in_.rpo_max_ms)} may be`,
    yes(in_.loss_accepted) && "an operator accepts more"]],
  "cooled-down": ["Is the last failover long ago?", (in_) => [
    in_.last_failover_ago_ms === "never" ? "there was none" : `it was ${ms(in_.last_failover_ago_ms)} ago`,
    `the cooldown is ${ms(in_.cooldown_ms)}`, yes(in_.lifted) && "an operator lifted it"]],
  "below-limit": ["Were there few failovers lately?", (in_) => [
    `${in_.failovers_in_window} of ${in_.failovers_max} in the window`, yes(in_.latched) && "the limit was reached, and is not reset",
    yes(in_.ordered) && "an operator ordered it"]],
  approved: ["Is it approved?", (in_) => (in_.by === "nobody"
    ? (in_.mode === "auto" ? "none is needed: it acts by itself" : `nobody approved it; ${count(in_.needed, "approval is", "approvals are")} needed`)
    : [`by ${in_.by}`, in_.needed !== "1" && `${in_.people} of ${in_.needed} needed`])],
};

/** What a guard that this page does not know was given: its words without underscores, times with units. */
const plain = (inputs) => inputs.map(({ name, value }) => (name.endsWith("_ms")
  ? `${name.slice(0, -3).replaceAll("_", " ")} ${ms(value)}` : `${name.replaceAll("_", " ")} ${value}`));

/** A guard as [question, facts]. */
export function guard(result) {
  const inputs = result.inputs ?? [];
  const known = GUARDS[result.guard];
  const named = Object.fromEntries(inputs.map(({ name, value }) => [name, value]));
  let facts = plain(inputs);
  try {
    if (known) facts = [known[1](named)].flat().filter(Boolean);
  } catch {
    // Another version of the controller gave other inputs.
  }
  return [known?.[0] ?? result.guard, facts.join("; ")];
}

/** A guard as a line of a list. */
export function guardLine(result) {
  const [question, facts] = guard(result);
  return h("li", { class: result.pass ? "pass" : "stop", title: result.guard },
    h("span", { class: "unseen" }, result.pass ? "passes: " : "refuses: "), h("strong", {}, question), " ", h("span", { class: "soft" }, facts));
}

/** Milliseconds within a sentence, as people say them. */
export const readable = (text) => text.replace(/\b(\d{4,}) ms\b/g, (_, number) => span(Number(number)));

/** Who did it, without the random part of a controller's name. */
export const shortActor = (actor) => actor.replace(/^([a-z]+)-[0-9a-f]{16,}$/, "$1");

const FAULTS = [
  [/^lose-region (\S+)/, "$1 vanishes"], [/^crash (\S+)/, "the host of the $1 is lost"], [/^hang (\S+)/, "the $1 hangs"],
  [/^slow (\S+)/, "the $1 is slow"], [/^lose-website (\S+)/, "the website in $1 is gone"], [/^cut-replication/, "replication is cut"],
  [/^slow-dns (\S+)/, "DNS answers $1 later"], [/^isolate (\S+)/, "vantage $1 is cut off"],
  [/^blindfold (\S+) (\S+)/, "vantage $1 sees nothing of $2"], [/^restart-controller|^kill-controller.*/, "the controller is killed"],
  [/^aws (.+)/, "AWS: $1"],
];

/** A fault of the lab in words. */
export function fault(what) {
  const known = FAULTS.find(([shape]) => shape.test(what));
  return known ? what.replace(known[0], known[1]) : what;
}

/** The end of a fault of the lab in words. */
export function healed(what) {
  const region = what.match(/^lose-region (\S+)/)?.[1];
  return region ? `${region} is back` : `no more: ${fault(what)}`;
}
