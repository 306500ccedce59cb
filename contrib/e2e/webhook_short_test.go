//go:build !long

package e2e

// webhookKills is how often TestWebhookOutlivesKillNine kills the agent:
// once after each of its lengths of load.
const webhookKills = 5
