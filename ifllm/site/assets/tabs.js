// One participant, one tab: the tab that was opened last goes on, and those before it are told.

const me = crypto.randomUUID();
const channel = new BroadcastChannel("ifllm-study");
let stopped = false;
export const taken = () => stopped;

// Say that this tab is the one; `onTaken` is called when another says so later.
export function claim(onTaken) {
  if (stopped) return;
  channel.onmessage = event => {
    if (event.data === me || stopped) return;
    stopped = true;
    onTaken();
  };
  if (!claim.said) channel.postMessage(me);
  claim.said = true;
}
