// Talks to the server: requests, and the stream of changes with its reconnection.

const fragment = new URLSearchParams(location.hash.replace(/^#\/?/, ""));
if (fragment.has("token")) {
  sessionStorage.setItem("token", fragment.get("token"));
  history.replaceState(null, "", "#/");
}

function headers(more = {}) {
  const token = sessionStorage.getItem("token");
  return token ? { ...more, authorization: `Bearer ${token}` } : more;
}

/** Gives the token that lets this page look or give orders; for this tab only. */
export function setToken(token) {
  sessionStorage.setItem("token", token);
}

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function answer(response) {
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, body.error ?? `${response.status} ${response.statusText}`);
  return body;
}

/** Asks for data below /api. */
export async function get(path) {
  return answer(await fetch(`/api${path}`, { headers: headers() }));
}

/** Sends an order. */
export async function post(path, body) {
  const sent = { method: "POST", headers: headers({ "content-type": "application/json" }), body: JSON.stringify(body) };
  return answer(await fetch(`/api${path}`, sent));
}

// The server says something at least every two seconds.
const SILENCE_MS = 6000;

/**
 * Follows changes until `stop` is called. `on` has a function per kind of event; `connected` is told true, or false and why.
 * After a loss it comes back with the number of the last event, and gets what it missed.
 */
export function follow(cluster, on, connected) {
  let stopped = false;
  let seen = null;
  let abort = new AbortController();
  const query = cluster ? `?cluster=${encodeURIComponent(cluster)}` : "";

  async function once() {
    abort = new AbortController();
    let timer = setTimeout(() => abort.abort(), SILENCE_MS);
    try {
      const more = seen === null ? {} : { "last-event-id": String(seen) };
      const response = await fetch(`/api/stream${query}`, { headers: headers(more), signal: abort.signal });
      if (!response.ok) await answer(response);
      connected(true);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        clearTimeout(timer);
        timer = setTimeout(() => abort.abort(), SILENCE_MS);
        text += value;
        let end;
        while ((end = text.indexOf("\n\n")) >= 0) {
          tell(text.slice(0, end));
          text = text.slice(end + 2);
        }
      }
    } finally {
      clearTimeout(timer);
    }
  }

  function tell(block) {
    let kind = "message";
    let data = "";
    for (const line of block.split("\n")) {
      if (line.startsWith("id:")) seen = Number(line.slice(3));
      else if (line.startsWith("event:")) kind = line.slice(6).trim();
      else if (line.startsWith("data:")) data += line.slice(5);
    }
    if (data && on[kind]) on[kind](JSON.parse(data));
  }

  (async () => {
    let pause = 300;
    while (!stopped) {
      let why = null;
      try {
        await once();
        pause = 300;
      } catch (error) {
        pause = Math.min(pause * 2, 5000);
        // The server's own words; a broken connection has none.
        if (error instanceof Refused) why = error.message;
      }
      if (stopped) return;
      connected(false, why);
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  })();

  return () => {
    stopped = true;
    abort.abort();
  };
}
