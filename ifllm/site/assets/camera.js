// The one place where a camera is opened and closed, and what to say when it cannot be.

const DENIED = "Your browser was not allowed to use the camera. Allow it (the camera symbol beside the address), then try again.";
const WHY = {
  insecure: "Browsers give the camera only to pages with a secure address (https). Please tell the researcher that this page has none.",
  unsupported: "This browser has no access to cameras. Please use a recent Chrome, Edge or Firefox.",
  denied: DENIED,
  none: "No camera was found. Plug one in, then try again.",
  busy: "The camera is in use by another program. Close that program, then try again.",
  models: "The program that finds your eyes could not be loaded from this site. Try again; if it fails once more, please tell the researcher.",
  wasm: "This browser cannot run the program that finds your eyes (WebAssembly). Please use a recent Chrome, Edge or Firefox.",
  no_face: "The camera works, but no face was seen. Sit in front of it with light on your face, then try again.",
  slow: "This computer is too slow to find your eyes. Close other programs, or use another computer.",
  other: "The camera could not be started. Close other programs that use it, then try again.",
};
const NAMES = {
  NotAllowedError: "denied", SecurityError: "denied", NotFoundError: "none", OverconstrainedError: "none", NotReadableError: "busy", AbortError: "busy",
};

export class Trouble extends Error {
  constructor(cause) {
    super(WHY[cause]);
    this.cause = cause;
  }
}

const tracks = new Set(); // that were opened and not yet stopped

// `onLost` is called when the camera goes away by itself.
export async function openCamera(constraints, onLost) {
  if (!window.isSecureContext) throw new Trouble("insecure");
  if (!navigator.mediaDevices?.getUserMedia) throw new Trouble("unsupported");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia(constraints);
  } catch (error) {
    throw new Trouble(NAMES[error?.name] ?? "other");
  }
  for (const track of stream.getTracks()) {
    tracks.add(track);
    track.addEventListener("ended", () => { if (tracks.has(track)) onLost(); });
  }
  return stream;
}

export function closeCameras() {
  for (const track of tracks) track.stop();
  tracks.clear();
}

// however the page is left, and should the browser keep it to be come back to: the camera does not stay on
addEventListener("pagehide", closeCameras);
addEventListener("pageshow", event => { if (event.persisted) location.reload(); });
