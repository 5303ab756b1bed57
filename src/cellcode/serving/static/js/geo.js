/** The globe as a sphere: distances in metres, positions in degrees, latitude first; GeoJSON, longitude first, only in results. */

export const EARTH_RADIUS_M = 6371008.8;
const RAD = Math.PI / 180;

/** @typedef {{lat: number, lon: number}} Place - degrees */

/** Great-circle distance (haversine). @param {Place} a @param {Place} b @returns {number} metres */
export function distanceM(a, b) {
  const dLat = (b.lat - a.lat) * RAD;
  const dLon = (b.lon - a.lon) * RAD;
  const h = Math.sin(dLat / 2) ** 2 + Math.cos(a.lat * RAD) * Math.cos(b.lat * RAD) * Math.sin(dLon / 2) ** 2;
  return 2 * EARTH_RADIUS_M * Math.asin(Math.min(1, Math.sqrt(h)));
}

/**
 * The place one reaches on a great circle.
 * @param {Place} from @param {number} bearingDeg - clockwise from north @param {number} lengthM - metres
 * @returns {Place} longitude is continuous with the start's, so that circles across the antimeridian stay in one piece
 */
export function destination(from, bearingDeg, lengthM) {
  const d = lengthM / EARTH_RADIUS_M;
  const lat = from.lat * RAD;
  const bearing = bearingDeg * RAD;
  const sin = Math.sin(lat) * Math.cos(d) + Math.cos(lat) * Math.sin(d) * Math.cos(bearing);
  const dLon = Math.atan2(Math.sin(bearing) * Math.sin(d) * Math.cos(lat), Math.cos(d) - Math.sin(lat) * sin);
  return { lat: Math.asin(Math.max(-1, Math.min(1, sin))) / RAD, lon: from.lon + dLon / RAD };
}

/** A circle on the ground. @param {Place} centre @param {number} radiusM @returns {object} GeoJSON Polygon of 96 corners */
export function circlePolygon(centre, radiusM) {
  const ring = [];
  for (let k = 0; k <= 96; k += 1) {
    const { lat, lon } = destination(centre, -(360 * k) / 96, radiusM); // counter-clockwise, as RFC 7946 asks
    ring.push([lon, lat]);
  }
  ring[96] = ring[0];
  return { type: "Polygon", coordinates: [ring] };
}

/** @param {number[]} bounds - west, south, east, north in degrees @returns {object} GeoJSON Polygon */
export function boxPolygon([west, south, east, north]) {
  const right = east < west ? east + 360 : east; // across the antimeridian
  return { type: "Polygon", coordinates: [[[west, south], [right, south], [right, north], [west, north], [west, south]]] };
}

/** @param {object} polygon - GeoJSON Polygon @returns {number[]} west, south, east, north in degrees */
export function boundsOf(polygon) {
  const ring = polygon.coordinates[0];
  const lons = ring.map((point) => point[0]);
  const lats = ring.map((point) => point[1]);
  return [Math.min(...lons), Math.min(...lats), Math.max(...lons), Math.max(...lats)];
}

/** Area on the sphere (Chamberlain and Duquette, JPL 07-03, equation 17). @param {object} polygon - GeoJSON @returns {number} m² */
export function areaM2(polygon) {
  let sum = 0;
  const ring = polygon.coordinates[0];
  for (let k = 0; k + 1 < ring.length; k += 1) {
    const [lon, lat] = ring[k];
    const [nextLon, nextLat] = ring[k + 1];
    sum += (nextLon - lon) * RAD * (2 + Math.sin(lat * RAD) + Math.sin(nextLat * RAD));
  }
  return Math.abs((sum * EARTH_RADIUS_M ** 2) / 2);
}

/** Area of a circle on the ground. @param {number} radiusM @returns {number} m² */
export function capAreaM2(radiusM) {
  return 2 * Math.PI * EARTH_RADIUS_M ** 2 * (1 - Math.cos(Math.min(Math.PI, radiusM / EARTH_RADIUS_M)));
}
