package gateway

// quota tells whether a call of so many compute units is within what the project
// may use in a day and in a month.
func (g *Gateway) quota(c caller, units int) (answer, bool) { return answer{}, true }
