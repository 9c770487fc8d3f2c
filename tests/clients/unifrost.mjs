// Reads a stream of the contract of unifrost with npm's eventsource, which reconnects by itself. Arguments: the URL of the stream at each
// node. Prints a JSON line with the data of each event. After the first event, it connects with the id of its consumer.
import { EventSource } from "eventsource";

const nodes = process.argv.slice(2).map((node) => new URL(node));

const source = new EventSource(nodes[0], {
  async fetch(_url, options) {
    try {
      return await fetch(nodes[0], options);
    } catch (error) {
      // The next attempt is at the next node.
      nodes.push(nodes.shift());
      throw error;
    }
  },
});
source.onmessage = ({ data }) => {
  const [topic, payload] = JSON.parse(data);
  if (topic === "/unifrost/info") {
    nodes.forEach((node) => node.searchParams.set("id", JSON.parse(payload).config.consumer_id));
  }
  console.log(data);
};
