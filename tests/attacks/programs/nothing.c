/* A program that does nothing, for a loader of the attacker's choice. */
int main(void)
{
    return 0;
}
