/** What an answer is worth, in words: found, not sure, or outside the region. */

import { areaM2, boxPolygon, capAreaM2 } from "./geo.js";
import { distance, percent } from "./format.js";

/** @typedef {"found"|"unsure"|"outside"} Kind */

/**
 * @param {object} answer - of POST /v1/locate
 * @param {object} database - of GET /v1/database
 * @param {{areaM2: number}|null} region - the part that was searched
 * @returns {Kind} "outside": the photo looks like none of the region's; "unsure": the 90 % circle is as large as what was
 *     searched, so the answer says little more than the question did, or was never measured
 */
export function kindOf(answer, database, region) {
  if (answer.in_region === false) return "outside";
  if (answer.radius_90_m === null) return "unsure";
  const searched = region ? region.areaM2 : areaM2(boxPolygon(database.bounds));
  return capAreaM2(answer.radius_90_m) >= searched ? "unsure" : "found";
}

/**
 * @param {Kind} kind @param {object} answer @param {object} database @param {boolean} restricted - only a part was searched
 * @returns {{title: string, text: string}}
 */
export function wording(kind, answer, database, restricted) {
  const where = restricted ? "the area you chose" : "this region";
  const circles =
    `Of photos answered like this one, half were taken within ${distance(answer.radius_50_m)} of the answer ` +
    `and nine of ten within ${distance(answer.radius_90_m)}.`;
  if (kind === "outside") {
    const chance = answer.inside_probability === null ? "" : ` The chance that it was is put at ${percent(answer.inside_probability)}.`;
    return {
      title: "Probably not taken in this region",
      text: `The photo does not look like photos from ${regionName(database)}.${chance} The places below are only the ones that resemble it most.`,
    };
  }
  if (kind === "unsure" && answer.radius_90_m === null) {
    return {
      title: "Not sure",
      text: "This database was built with too few validation photos to say how far off its answers are. Take the places below as hints.",
    };
  }
  if (kind === "unsure") {
    return {
      title: "Not sure",
      text:
        `The photo does not say enough. Nine of ten photos answered like it were taken within ${distance(answer.radius_90_m)} of the ` +
        `answer, a circle as large as ${where}; half within ${distance(answer.radius_50_m)}. Take the places below as hints.`,
    };
  }
  const unknown = answer.in_region === null ? " This database cannot tell photos from elsewhere: a photo from another region would get a place here too." : "";
  return { title: "Likely place found", text: circles + unknown };
}

/** @param {object} database @returns {string} */
export const regionName = (database) => (database.name ? `“${database.name}”` : "this region");
