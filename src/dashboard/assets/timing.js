// When what counts: the same times as in the report of an episode.

/** The entry and the turns of an episode, and from when its times are counted. */
export function zeroOf(id, turns, episodes, faults) {
  const own = turns.filter((turn) => turn.episode === id);
  const entry = episodes.find((one) => one.id === id);
  const first = own.at(-1);
  const opened = first && first.version === (entry?.["opened-version"] ?? first.version) ? first : null;
  const opening = entry?.["opened-at"] ?? opened?.at ?? first?.at;
  const good = entry?.["last-good-at"] ?? opened?.["newest-ok"] ?? opening;
  // In the lab the fault itself is known: the newest one shortly before the episode began.
  const fault = faults.filter((one) => one.kind === "fault" && one.at <= opening && one.at >= opening - 60_000).at(-1);
  return { good, fault, zero: fault?.at ?? good };
}

/** The episode that the page is about: the open one, else the newest that was verified; with its marks. */
export function current(detail, turns, episodes) {
  if (detail.episode) {
    const entry = episodes.find((one) => one.id === detail.episode.id);
    const good = entry?.["last-good-at"] ?? detail.episode["last-good-at"] ?? zeroOf(detail.episode.id, turns, episodes, []).good;
    return { ...detail.episode, good: good ?? detail.episode["began-at"], open: true };
  }
  const last = episodes.find((entry) => entry.episode?.["verified-at"]);
  return last ? { ...last.episode, good: last["last-good-at"], open: false } : null;
}

/** The states as bands [from, to, state] within a window, by stored turns (newest first) and the state now. */
export function bands(turns, state, from, to) {
  const moves = turns.filter((turn) => turn.from !== turn.to).sort((a, b) => a.version - b.version);
  const found = [];
  let [since, was] = [from, moves[0]?.from ?? state];
  for (const move of moves) {
    if (move.at > since) found.push([since, Math.min(move.at, to), was]);
    [since, was] = [Math.max(move.at, from), move.to];
  }
  found.push([since, to, state]);
  return found.filter(([a, b]) => b > a);
}
