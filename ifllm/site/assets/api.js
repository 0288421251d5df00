// Requests to our own server. Nothing else is ever contacted from here.

export class ApiError extends Error {
  constructor(status, detail, retryAfter) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
  }
  // worth another try: the connection, an upload that stalled, the server's restart, or too many at once
  get passing() { return [0, 408, 429].includes(this.status) || this.status >= 500; }
}

let csrf = "";
export const setToken = token => { csrf = token; };
export const getToken = () => csrf;

async function call(method, path, body, options = {}) {
  let reply;
  try {
    reply = await fetch(path, {
      method,
      headers: body === undefined ? {} : { "Content-Type": "application/json", "X-CSRF-Token": csrf },
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      cache: "no-store",
      ...options,
    });
  } catch {
    throw new ApiError(0, "No connection to the server. Your answers are kept; we try again.");
  }
  if (!reply.ok) {
    let detail = `The server could not do that (${reply.status}).`;
    try {
      const sent = (await reply.json()).detail;
      detail = typeof sent === "string" ? sent : sent.map(d => `${d.where.replace("body.", "")}: ${d.what}`).join("; ");
    } catch { /* keep the general sentence */ }
    throw new ApiError(reply.status, detail, Number(reply.headers.get("Retry-After")) || 0);
  }
  return reply;
}

export const get = async path => (await call("GET", path)).json();
export const post = async (path, body, options) => (await call("POST", path, body, options)).json();
export const sleep = ms => new Promise(done => setTimeout(done, ms));

// For what must arrive: tries again until the server has answered, however long it is away.
export async function insist(path, body, onWait = () => {}) {
  for (let wait = 500; ; wait = Math.min(wait * 2, 10000)) {
    try {
      return await post(path, body);
    } catch (error) {
      if (!(error instanceof ApiError) || !error.passing) throw error;
      onWait(error);
      await sleep(error.retryAfter ? error.retryAfter * 1000 : wait);
    }
  }
}

// Lines of JSON as they arrive.
export async function* lines(path, body) {
  const reader = (await call("POST", path, body)).body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = parts.pop();
      for (const part of parts) if (part) yield JSON.parse(part);
    }
  } catch (error) {
    if (error instanceof ApiError) throw error;
    throw new ApiError(0, "The connection was lost.");
  }
}
