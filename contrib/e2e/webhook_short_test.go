//go:build !long

package e2e

// webhookKills is how often TestWebhookOutlivesKillNine kills the agent.
const webhookKills = 10
