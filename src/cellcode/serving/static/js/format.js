/** Numbers as people read them, and back. */

/** @param {number} metres @returns {string} two or three significant digits: "85 m", "1.4 km", "12 km" */
export function distance(metres) {
  if (metres < 1000) return `${Number(metres.toPrecision(2))} m`;
  const km = metres / 1000;
  return `${(km < 10 ? km.toFixed(1) : Math.round(km).toLocaleString("en"))} km`;
}

/** @param {number} m2 @returns {string} "0.8 km²" */
export function area(m2) {
  const km2 = m2 / 1e6;
  if (km2 < 0.01) return `${Math.round(m2).toLocaleString("en")} m²`;
  return `${km2 < 10 ? Number(km2.toPrecision(2)) : Math.round(km2).toLocaleString("en")} km²`;
}

/** @param {number} share - 0..1 @returns {string} "0.3 %", "42 %", "under 0.01 %" */
export function percent(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.01) return "under 0.01 %";
  if (value > 99.9 && value < 100) return "over 99.9 %";
  return `${value < 10 ? Number(value.toPrecision(2)) : value < 99 ? Math.round(value) : Number(value.toFixed(1))} %`;
}

/** @param {{lat: number, lon: number}} place - degrees @returns {string} "52.01955, 3.11618", about a metre */
export const coordinates = ({ lat, lon }) => `${lat.toFixed(5)}, ${lon.toFixed(5)}`;

/** @param {number} deg - clockwise from north @returns {string} "209° (south-west)" */
export function direction(deg) {
  const names = ["north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west"];
  return `${Math.round(deg) % 360}° (${names[Math.round(deg / 45) % 8]})`;
}

/** @param {number} count @param {string} noun @returns {string} "1 photo", "3,995 photos" */
export const several = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

/**
 * Read "lat, lon" in degrees, with or without signs as words ("52.02 N, 3.12 W").
 * @param {string} text
 * @returns {{lat: number, lon: number}|null} null if it is no place on the globe
 */
export function parsePlace(text) {
  const found = text.trim().match(/^([+-]?\d+(?:\.\d+)?)\s*°?\s*([NS])?\s*[,;\s]\s*([+-]?\d+(?:\.\d+)?)\s*°?\s*([EW])?$/i);
  if (!found) return null;
  const lat = Number(found[1]) * (/s/i.test(found[2] ?? "") ? -1 : 1);
  const lon = Number(found[3]) * (/w/i.test(found[4] ?? "") ? -1 : 1);
  return Math.abs(lat) <= 90 && Math.abs(lon) <= 180 ? { lat, lon } : null;
}

/**
 * Read "west,south,east,north" in degrees.
 * @param {string} text
 * @returns {number[]|null} null if it is no box on the globe; east below west is a box across the antimeridian
 */
export function parseBox(text) {
  const parts = text.trim().split(/[\s,;]+/).map(Number);
  if (parts.length !== 4 || parts.some((part) => !Number.isFinite(part))) return null;
  const [west, south, east, north] = parts;
  const onGlobe = [west, east].every((lon) => Math.abs(lon) <= 180) && [south, north].every((lat) => Math.abs(lat) <= 90);
  return onGlobe && south < north && west !== east ? parts : null;
}
