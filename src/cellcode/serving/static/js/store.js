/** What the page knows, in one place; parts of the page listen to the fields they show. */

/**
 * @typedef {object} State
 * @property {object|null} database - the answer of GET /v1/database
 * @property {{file: File, url: string}[]} photos - what is asked about; `url` is an object URL, never stored
 * @property {boolean} fuse - the photos are of one place
 * @property {number|null} heading - direction of view as typed, degrees clockwise from north
 * @property {{text: string, polygon: object, areaM2: number}|null} region - the part of the region to search
 * @property {boolean} pending - a question is on its way
 * @property {{message: string, action: string}|null} problem - why there is no answer
 * @property {object[]} answers - answers and failures, in the photos' order; with `fuse` one
 * @property {number} current - the answer that is shown
 * @property {number} selected - the candidate that is compared with the photo
 * @property {number|null} hovered - the candidate under the pointer or with the focus
 * @property {{lat: number, lon: number}|null} claim - the place somebody says the photo is from, degrees
 * @property {object|null} verification - the answer of POST /v1/verify
 * @property {boolean} showMetadata - show the position in the file on the map
 * @property {boolean} showHeat
 * @property {boolean} showImagery
 * @property {boolean} showOnline - the user turned the online basemap on
 * @property {"box"|"circle"|"polygon"|"claim"|null} tool - what a click on the map means
 */

/** @type {State} */
const state = {
  database: null,
  photos: [],
  fuse: true,
  heading: null,
  region: null,
  pending: false,
  problem: null,
  answers: [],
  current: 0,
  selected: 0,
  hovered: null,
  claim: null,
  verification: null,
  showMetadata: false,
  showHeat: true,
  showImagery: true,
  showOnline: false,
  tool: null,
};

/** @type {{fields: string[], show: (state: State) => void}[]} */
const listeners = [];

/** @returns {State} the state now; change it with `set` only. */
export const get = () => state;

/** Change fields and tell those who show them. @param {Partial<State>} change */
export function set(change) {
  const changed = Object.keys(change).filter((field) => state[field] !== change[field]);
  Object.assign(state, change);
  for (const { fields, show } of listeners) {
    if (fields.some((field) => changed.includes(field))) show(state);
  }
}

/** Call `show` now and whenever one of the fields changes. @param {string[]} fields @param {(state: State) => void} show */
export function watch(fields, show) {
  listeners.push({ fields, show });
  show(state);
}

/** @returns {object|null} the answer that is shown; null while there is none or its photo could not be read. */
export function currentAnswer() {
  const answer = state.answers[state.current];
  return answer && !answer.error ? answer : null;
}

/** @returns {{file: File, url: string}[]} the photos the answer that is shown was made from. */
export function currentPhotos() {
  const answer = state.answers[state.current];
  if (!answer || answer.files) return state.photos;
  return state.photos.slice(state.current, state.current + 1);
}
