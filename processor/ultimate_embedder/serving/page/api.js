// The service, as functions. An answer that is no success becomes a Problem.

const TOKEN = "embedder-token";

export class Problem extends Error {
  constructor(status, error, cure) {
    super(cure ? `${error} ${cure}` : error);
    this.status = status;
  }
}

export function useToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

async function answer(path, options = {}) {
  const headers = { ...options.headers };
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.Authorization = `Bearer ${token}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The service does not answer.", "Is it still running?");
  }
  const body = await response.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Problem(response.status, "The answer is broken off or of another service.");
  });
  if (!response.ok) {
    throw new Problem(response.status, body.error || response.statusText, body.cure);
  }
  return body;
}

export const collections = async () => (await answer("/collections")).collections;

export const search = (request, signal) =>
  answer("/search", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(request),
    signal,
  });

export const chunk = (id, collection) => {
  const path = id.split("/").map(encodeURIComponent).join("/");
  return answer(`/chunks/${path}?collection=${encodeURIComponent(collection)}`);
};
