/** The service's HTTP API: every request of the page goes through here, so that the key travels with each of them. */

import { byId } from "./dom.js";

const KEY = "cellcode-key"; // in sessionStorage: it ends with the tab

const NO_KEY = { code: "unauthorized", message: "This service needs a key.", action: "Reload the page and type the key." };

/** What the service refused, as its own sentence and what to do. */
export class ApiError extends Error {
  /** @param {number} status - HTTP status, 0 if the service was not reached @param {{code: string, message: string, action: string}} error */
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.code = error.code;
    this.action = error.action;
  }
}

/** @returns {Record<string, string>} headers that every request needs. */
export function headers() {
  const key = sessionStorage.getItem(KEY);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/**
 * Ask the service; asks the user for a key where it wants one.
 * @param {string} path @param {RequestInit} [options]
 * @returns {Promise<Response>} a good one
 * @throws {ApiError} and DOMException "AbortError"
 */
export async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...options.headers, ...headers() } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, {
      code: "unreachable",
      message: "The service does not answer.",
      action: "Check that it is running and that you are connected, then try again.",
    });
  }
  if (response.ok) return response;
  if (response.status === 401) {
    await askForKey(headers().Authorization !== undefined);
    return request(path, options);
  }
  throw await errorOf(response);
}

/** @param {string} path @param {RequestInit} [options] @returns {Promise<any>} the JSON of the answer */
export const json = async (path, options) => (await request(path, options)).json();

/** @param {object} fields - texts and files; null is left out, a list is sent as several parts @returns {FormData} */
export function form(fields) {
  const made = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each instanceof File) made.append(name, each, each.name || "photo.jpg");
      else if (each !== null && each !== undefined) made.append(name, String(each));
    }
  }
  return made;
}

/** @type {Map<string, Promise<string>>} */
const images = new Map();

/** Fetch an image once. @param {string} path @returns {Promise<string>} an object URL, kept while the page is open */
export function image(path) {
  if (!images.has(path)) {
    const made = request(path).then(async (response) => URL.createObjectURL(await response.blob()));
    made.catch(() => images.delete(path));
    images.set(path, made);
  }
  return images.get(path);
}

async function errorOf(response) {
  const body = await response.json().catch(() => null);
  const wait = response.headers.get("Retry-After");
  const error = body?.error ?? {
    code: "internal",
    message: `The service answered with status ${response.status}.`,
    action: "Try again; if it stays so, tell whoever runs the service.",
  };
  return new ApiError(response.status, wait ? { ...error, action: `${error.action} (Wait ${wait} s.)` } : error);
}

let asking = null;

/** Show the dialog and wait for a key; requests that fail together share one dialog. */
function askForKey(refused) {
  asking ??= new Promise((done, failed) => {
    const dialog = byId("key-dialog");
    const field = byId("key-field");
    byId("key-refused").hidden = !refused;
    field.value = "";
    dialog.showModal();
    byId("key-form").onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem(KEY, field.value.trim());
      done();
      dialog.close();
    };
    dialog.onclose = () => failed(new ApiError(401, NO_KEY)); // too late after a key
  }).finally(() => (asking = null));
  return asking;
}
